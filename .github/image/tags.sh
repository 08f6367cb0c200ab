#!/bin/sh
# Prints the names of a release's image, one a line: sh tags.sh ghcr.io/OWNER/NAME 0.1.0
# An older release that is built again takes neither `latest` nor `0.1` from a newer one.
image=$1 version=$2

newest() {
    git tag --list "v$1" | grep -xE 'v[0-9]+\.[0-9]+\.[0-9]+' | sort -V | tail -n 1
}

echo "$image:$version"
minor=${version%.*}
if test "$(newest "$minor.*")" = "v$version"; then echo "$image:$minor"; fi
if test "$(newest '*')" = "v$version"; then echo "$image:latest"; fi
