#!/bin/sh
# Runs a command in a fresh clone of what is committed here, with folders of its own for HOME and
# temporary files. Root runs it as nobody and, where the machine allows that, under another host name.
# No account is created.
set -eu

user=$(id -un)
if test "$(id -u)" = 0; then
    user=nobody
    unset TMPDIR # may be root's alone
fi
folder=$(mktemp -d -t docora-ops-XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
git clone --quiet . "$folder/clone"
test -z "$(git status --porcelain)" || echo 'What is not committed is not tested.' >&2
mkdir "$folder/home" "$folder/tmp"

if test "$(id -u)" = 0; then
    group=$(id -gn nobody)
    chown -R "nobody:$group" "$folder"
    # The shell looks for the command as nobody, who can't run each program on root's PATH.
    set -- setpriv --reuid=nobody --regid="$group" --clear-groups sh -c 'exec "$@"' - "$@"
    if unshare --uts true 2>/dev/null; then
        rename='echo elsewhere >/proc/sys/kernel/hostname; exec "$@"'
        set -- unshare --uts sh -c "$rename" - "$@"
    fi
fi
unset XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR XDG_STATE_HOME
cd "$folder/clone"
HOME=$folder/home TMPDIR=$folder/tmp USER=$user LOGNAME=$user "$@"
