#!/bin/sh
# Counts a text from standard input. POSIX sh and the usual tools only.
set -eu
# One order of sorting and one idea of a letter on every machine.
LC_ALL=C
export LC_ALL

text=$(mktemp "${CLAWMESH_DIR:-${TMPDIR:-/tmp}}/word-count.XXXXXX")
trap 'rm -f "$text"' EXIT
trap 'exit 143' TERM INT HUP
cat > "$text"

# wc pads its numbers on some systems; read takes them apart.
read -r lines words bytes rest <<END
$(wc < "$text")
END

tr -c '[:alnum:]' '\n' < "$text" | tr '[:upper:]' '[:lower:]' | awk 'NF' | sort | uniq -c | sort -k1,1nr -k2,2 |
    awk -v lines="$lines" -v words="$words" -v bytes="$bytes" '
        NR <= 10 { top = top (NR > 1 ? "," : "") "{\"word\":\"" $2 "\",\"count\":" $1 "}" }
        END { printf "{\"lines\":%s,\"words\":%s,\"bytes\":%s,\"top\":[%s]}\n", lines, words, bytes, top }'
