# Asks Typer as its own script for fish does, but passes the words on in quotes: Typer splits them
# as sh does. Each line of the answer is a value, a tab and a description.
function __docora_ops_complete
    # Before fish 4, there is no -x.
    set -l words (commandline -xpc 2>/dev/null; or commandline -opc)
    set -l raw (commandline -ct | string collect)
    # The quote that the last word begins with may still be open.
    set -l typed (string unescape -- $raw; or string unescape -- $raw\'; or string unescape -- $raw\")
    set -l option (string match --regex -- '^--[^=]+=' "$typed")
    set -l line \'(string replace --all \' \'\\\'\' -- $words "$typed")\'
    set -lx _TYPER_COMPLETE_ARGS "$line"
    set -lx _TYPER_COMPLETE_FISH_ACTION get-args
    set -lx _DOCORA_OPS_COMPLETE complete_fish
    for value in ($words[1] 2>/dev/null)
        echo -- "$option$value"
    end
    test "$words[-1]" = --env-file; and __fish_complete_path "$typed"
end
complete --command docora-ops --no-files --keep-order --arguments '(__docora_ops_complete)'
