#!/bin/bash
# See usage below. Exit codes: 0 nothing found, 1 something found, 64 wrong usage, 69 cannot build.
set -u
cd "$(dirname "$0")/.." || exit 70

usage() {
    cat <<'END'
Fuzzes what reads bytes of strangers, with libFuzzer and the address sanitizer.

  scripts/fuzz.sh [--seconds N] [--runs N] [--target T]… [--work DIRECTORY]
  scripts/fuzz.sh --merge DIRECTORY [--target T]…

  --seconds N   fuzz for N seconds in all, shared evenly among the targets (default 600); 0 only
                replays the kept inputs
  --runs N      instead: N executions of each target, however long they take
  --target T    only this one; may be repeated. The targets, in Fuzz/Sources:
                  frames       frame decoder, chunk assembler, messages' bodies   (Wire)
                  session      session machine, either side, as a row of events   (Wire)
                  monitor      QEMU monitor: lines, JSON, session                 (QMP)
                  guest-agent  guest agent: the same, from an untrusted guest     (QMP)
                  host-file    reader of host files                               (HostConfiguration)
  --work DIR    keep new inputs there, in DIR/TARGET, and start from those that are there already
                (default: a temporary directory); one long run can follow another
  --merge DIR   fuzzes nothing: adds to Fuzz/corpus, which is in git, those inputs of DIR/TARGET
                that reach code which no kept one reaches

Each target is built with optimisation into .build-fuzz, first replays Fuzz/corpus/TARGET and then
fuzzes from there. A crash, a hang, or a property that does not hold ends the target; the input is
saved in .cache/fuzz/TARGET/ and the command that replays it is printed. Mend the code, add a unit
test, and keep the input as Fuzz/corpus/TARGET/a-telling-name.

Examples:
  scripts/fuzz.sh --seconds 60 --target session
  scripts/fuzz.sh --runs 100000000 --target frames --work /tmp/fuzz
  make fuzz SECONDS=3600
END
}

all=(frames session monitor guest-agent host-file)

# The executable of a target, the module that it tests, and the longest input that is tried.
product_of() {
    case $1 in
        frames) echo FuzzFrames ;;
        session) echo FuzzSession ;;
        monitor) echo FuzzMonitor ;;
        guest-agent) echo FuzzGuestAgent ;;
        host-file) echo FuzzHostFile ;;
    esac
}
module_of() {
    case $1 in
        frames | session) echo Wire ;;
        monitor | guest-agent) echo QMP ;;
        host-file) echo HostConfiguration ;;
    esac
}
max_length_of() { if [ "$1" = guest-agent ]; then echo 256; else echo 384; fi; }

seconds=
runs=
work=
merge=
targets=()
wrong() {
    echo "fuzz: $1; scripts/fuzz.sh --help tells more" >&2
    exit 64
}
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h)
            usage
            exit 0
            ;;
        --seconds | --runs | --target | --work | --merge)
            [ $# -ge 2 ] || wrong "$1 wants a value"
            case $1 in
                --seconds) seconds=$2 ;;
                --runs) runs=$2 ;;
                --work) work=$2 ;;
                --merge) merge=$2 ;;
                --target)
                    [ -n "$(product_of "$2")" ] || wrong "there is no target $2 (${all[*]})"
                    targets+=("$2")
                    ;;
            esac
            shift 2
            ;;
        *) wrong "unknown argument $1" ;;
    esac
done
for number in "$seconds" "$runs"; do
    case $number in *[!0-9]*) wrong "$number is no number" ;; esac
done
if [ -n "$seconds" ] && [ -n "$runs" ]; then wrong "give either --seconds or --runs"; fi
if [ ${#targets[@]} -eq 0 ]; then targets=("${all[@]}"); fi

# MARK: What is needed

library=$(dirname "$(readlink -f "$(command -v swift)")")/../lib/clang
for runtime in fuzzer asan; do
    if ! ls "$library"/*/lib/*/libclang_rt."$runtime"*.a >/dev/null 2>&1; then
        echo "fuzz: the toolchain of $(command -v swift || echo swift) has no libclang_rt.$runtime:" \
            "install the whole Swift toolchain from swift.org, not a part of it" >&2
        exit 69
    fi
done
while read -r line; do
    if ! grep -qF "$line" Package.swift; then
        echo "fuzz: Fuzz/Package.swift has \`$line\`, and Package.swift another version:" \
            "use the same" >&2
        exit 69
    fi
done < <(grep -o '\.package(url: .*)' Fuzz/Package.swift)

build=.build-fuzz
# One product after the other: all at once would also build the C++ protoc of SwiftProtobuf's plugin.
# lld: gold does not manage libFuzzer's `main` beside the one that SwiftPM names. The C flag is for
# libyaml; see Fuzz/Package.swift for the rest.
for target in "${targets[@]}"; do
    echo "fuzz: building $target into $build (minutes, the first time)"
    if ! swift build --package-path Fuzz --scratch-path "$PWD/$build" -c release \
        --product "$(product_of "$target")" --sanitize=address -Xswiftc -use-ld=lld \
        -Xcc -fsanitize-coverage=edge,inline-8bit-counters,pc-table; then
        echo "fuzz: the build failed; see above" >&2
        exit 69
    fi
done
# The compiler takes one list of sanitizers, the last: a flag in the wrong place, and we would fuzz
# without noticing that there is none.
for target in "${targets[@]}"; do
    module=$(module_of "$target")
    for mark in __asan_report_load __sancov_cntrs; do
        if ! grep -qrF "$mark" "$build/release/$module.build" --include='*.o'; then
            echo "fuzz: $module was built without $mark: remove $build and build again; if that does" \
                "not help, see the flags in Fuzz/Package.swift and in this script" >&2
            exit 69
        fi
    done
done

# MARK: Running

found=.cache/fuzz
temporary=
if [ -z "$work$merge" ]; then
    # In memory if possible: a run writes and removes thousands of small files.
    if [ -w /dev/shm ]; then temporary=$(mktemp -d /dev/shm/fermata-fuzz-XXXXXX)
    else temporary=$(mktemp -d); fi
    work=$temporary
fi
log=$(mktemp)
fuzzer=
stop() {
    if [ -n "$fuzzer" ]; then kill "$fuzzer" 2>/dev/null; fi
    rm -rf "$log" ${temporary:+"$temporary"}
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Allocations are most of the work, so the sanitizer does without their stack traces and keeps only
# a little of what was freed; a replay has all of it. Swift's own backtracer would be taken for a
# crash by the sanitizer, and libFuzzer could not save the input.
export SWIFT_BACKTRACE=enable=no
symbolizer=$(dirname "$(readlink -f "$(command -v swift)")")/llvm-symbolizer
export ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0:max_malloc_fill_size=0"
ASAN_OPTIONS+=":malloc_context_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
ASAN_OPTIONS+=":external_symbolizer_path=$symbolizer"

passed=0
failed=0

# run TARGET WHAT ARGUMENT…: runs a fuzzer, shows how far it is, counts it, and tells what it found.
run() {
    local target=$1 what=$2 binary status executions last=$SECONDS artifact
    shift 2
    binary=$build/release/$(product_of "$target")
    mkdir -p "$found/$target"
    # use_cmp=0: without comparisons to guide it, it would only learn the names of Swift's types.
    "$binary" -artifact_prefix="$found/$target/" \
        -dict="Fuzz/dictionaries/$target.dict" -use_cmp=0 -detect_leaks=0 -timeout=30 \
        -rss_limit_mb=1024 -reload=0 -print_final_stats=1 "$@" >"$log" 2>&1 &
    fuzzer=$!
    while kill -0 "$fuzzer" 2>/dev/null; do
        sleep 0.2
        if [ $((SECONDS - last)) -ge 5 ]; then
            last=$SECONDS
            printf 'fuzz: %s, %s: %s\n' "$target" "$what" \
                "$(grep -a '^#' "$log" | tail -n 1 | grep -ao '^#[0-9]*\|exec/s: [0-9]*' | xargs)"
        fi
    done
    wait "$fuzzer"
    status=$?
    fuzzer=
    executions=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
    # A merge keeps no such count.
    executions=${executions:-?}
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        printf 'fuzz: ok: %s, %s: %s executions, %s/s, %s\n' "$target" "$what" "$executions" \
            "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")" \
            "$(grep -a '^#' "$log" | tail -n 1 | grep -ao 'cov: [0-9]*\|corp: [0-9]*' | xargs)"
        return
    fi
    failed=$((failed + 1))
    grep -av '^#[0-9]*.*\(NEW\|REDUCE\|pulse\)' "$log" | sed -n '/Fatal error\|ERROR/,$p' |
        cut -c 1-1000 | head -n 50
    printf 'fuzz: FAILED: %s, %s, after %s executions (exit code %s)\n' \
        "$target" "$what" "$executions" "$status"
    artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    if [ -n "$artifact" ]; then
        echo "fuzz: the input is in $artifact; run it again with"
        echo "    SWIFT_BACKTRACE=enable=no $binary -timeout=30 $artifact"
    fi
}

if [ -n "$merge" ]; then
    for target in "${targets[@]}"; do
        [ -d "$merge/$target" ] || continue
        before=$(find "Fuzz/corpus/$target" -type f | wc -l)
        run "$target" merge -merge=1 -use_counters=0 "Fuzz/corpus/$target" "$merge/$target"
        echo "fuzz: $target has $(find "Fuzz/corpus/$target" -type f | wc -l) inputs, $before before"
    done
    [ "$failed" -eq 0 ]
    exit
fi

if [ -z "$runs" ] && [ "${seconds:-600}" -gt 0 ]; then
    each=$((${seconds:-600} / ${#targets[@]}))
    # libFuzzer takes 0 for "no end".
    if [ "$each" -eq 0 ]; then each=1; fi
    limit=(-max_total_time="$each")
elif [ -n "$runs" ]; then
    limit=(-runs="$runs")
else
    limit=()
fi
for target in "${targets[@]}"; do
    run "$target" replay -runs=0 "Fuzz/corpus/$target"
    if [ ${#limit[@]} -gt 0 ]; then
        mkdir -p "$work/$target"
        run "$target" fuzzing "${limit[@]}" -max_len="$(max_length_of "$target")" \
            "$work/$target" "Fuzz/corpus/$target"
    fi
done
echo "fuzz: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
