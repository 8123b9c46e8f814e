#!/bin/sh
# SHA-256 and size of the file whose path comes on standard input. POSIX sh and the usual tools only.
set -eu
LC_ALL=C
export LC_ALL

fail() {
    printf 'file-digest: %s\n' "$1" >&2
    exit 2
}

# The substitution drops line ends at the end; the path itself may hold anything else.
path=$(cat)
case $path in
    '') fail 'the input is empty; give the absolute path of a file' ;;
    /*) ;;
    *) fail "the path \"$path\" is not absolute; the skill runs in a directory of its own" ;;
esac
[ -e "$path" ] || fail "there is no file \"$path\" on this node"
[ -f "$path" ] || fail "\"$path\" is not a regular file"
[ -r "$path" ] || fail "\"$path\" may not be read by the node's user"

# Through standard input, so that no name of a file is ever taken for an option or escaped in the output.
if command -v sha256sum > /dev/null 2>&1; then
    digest=$(sha256sum < "$path")
else
    digest=$(shasum -a 256 < "$path")
fi
bytes=$(wc -c < "$path")
printf '{"sha256":"%s","bytes":%s}\n' "${digest%% *}" "$(printf '%s' "$bytes" | awk '{ print $1 }')"
