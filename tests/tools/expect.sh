# SPDX-License-Identifier: MIT
# What the shell tests of the command share. Sourced with $moe and $scratch set: an empty scratch folder to work in, and
# checks that count what failed in $failures.
failures=0
rm -rf "$scratch"
mkdir -p "$scratch" || exit 1
cd "$scratch" || exit 1

fail()
{
    echo "FAIL: $*"
    sed 's/^/    /' out err 2>/dev/null | head -20
    failures=$((failures + 1))
}

# expect CODE ARGUMENTS...: run moe; its stdout is in ./out, its stderr in ./err. An error is one line, "moe: ...".
expect()
{
    wanted=$1
    shift
    "$moe" "$@" >out 2>err </dev/null
    code=$?
    [ $code -eq "$wanted" ] || fail "exit $code, not $wanted: moe $*"
    case $wanted in
    2|3)
        [ "$(wc -l <err)" -eq 1 ] && grep -q '^moe: ..*' err || fail "no single error sentence: moe $*"
        [ -s out ] && fail "output besides the error: moe $*" ;;
    esac
    return 0
}

# said TEXT: the last command's stdout or stderr has it.
said()
{
    grep -q -e "$1" out err || fail "not said: $1"
}
