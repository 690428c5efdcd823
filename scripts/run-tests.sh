#!/bin/bash
# Runs every test there is and says how many passed. Called by `make test`, which has built before.
#
#   scripts/run-tests.sh            all parts, in the order below
#   scripts/run-tests.sh PART…      only these: swift specification model imports simulation compose
#                                   fuzzing mutants integration soak
#
# `integration` needs root, and fails at once without; the others do not.
#
# A part that fails does not stop the others; the exit code is 1 at the end if anything failed. The
# last line is `N passed, N failed` over all parts. Wants a debug build in .build and, for the
# integration tests and the soak, the lab in $FERMATA_CACHE (`make lab`); `fuzzing` builds its own in .build-fuzz.
set -u
cd "$(dirname "$0")/.." || exit 70

python=${PYTHON:-/usr/bin/python3}
export FERMATA=${FERMATA:-.build/debug/fermata}
export FERMATA_CACHE=${FERMATA_CACHE:-${CACHE:-.cache}}

passed=0
failed=0
failures=()
notes=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# once COUNTER COMMAND…: shows and runs the command; COUNTER reads its output from $log and sets
# part_passed and part_failed. Sets status.
once() {
    local counter=$1
    shift
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    part_passed=0
    part_failed=0
    "$counter"
    # A crash, or a failure that no line of the output shows, is one failed test.
    if [ "$status" -ne 0 ] && [ "$part_failed" -eq 0 ]; then part_failed=1; fi
    # A part that ran nothing has not passed.
    if [ "$part_passed" -eq 0 ] && [ "$part_failed" -eq 0 ]; then
        echo "run-tests: no test ran in this part" >&2
        part_failed=1
    fi
}

# run NAME COUNTER COMMAND…: as `once`, with the time it took, counted for the whole. With again=1 what
# failed is run once more: real processes beside each other on a busy computer may be too slow for each
# other. That it passed only then is said here and at the end.
run() {
    local name=$1 counter=$2 started=$SECONDS status
    shift 2
    printf '\n== %s: %s\n' "$name" "$*"
    once "$counter" "$@"
    if [ "$part_failed" -gt 0 ] && [ "${again:-0}" -eq 1 ]; then
        first=$(grep -aE '^✘|^\*\*\* Program crashed|error: Process' "$log" | cut -c1-300 | head -n 20)
        printf '\n== %s: %d failed; once more\n' "$name" "$part_failed"
        once "$counter" "$@"
        if [ "$part_failed" -eq 0 ]; then
            notes+=("$name passed only when run again; the first time:" "$first")
        fi
    fi
    if [ "$part_failed" -gt 0 ]; then failures+=("$name ($part_failed, exit code $status)"); fi
    passed=$((passed + part_passed))
    failed=$((failed + part_failed))
    printf '== %s: %d passed, %d failed in %d s\n' \
        "$name" "$part_passed" "$part_failed" $((SECONDS - started))
}

# Swift Testing: one line for each test, `✔ Test "…" passed after …` or `➜ Test "…" skipped.`, with
# `: "why"` for the full stop if there is a reason.
count_swift() {
    local skipped
    skipped=$(grep -cE '^[^ ]+ +Test .* skipped(: ".*"|\.)$' "$log")
    part_passed=$(grep -cE '^[^ ]+ +Test .* passed after [0-9.]+ seconds' "$log")
    part_failed=$(grep -cE '^[^ ]+ +Test .* failed after [0-9.]+ seconds' "$log")
    # The summary of the whole run has the same form.
    part_passed=$((part_passed - $(grep -cE '^[^ ]+ +Test run with .* passed after' "$log")))
    part_failed=$((part_failed - $(grep -cE '^[^ ]+ +Test run with .* failed after' "$log")))
    if [ "$skipped" -gt 0 ]; then echo "run-tests: $skipped skipped; each is named above"; fi
}

# unittest: `Ran 12 tests in 3.4s`, then `OK (skipped=1)` or `FAILED (failures=1, errors=2)`.
count_python() {
    local ran skipped
    ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$log" | tail -n 1)
    # Of the last result only: the log may hold those of modules, of which some were run again.
    number() { grep -aE '^(OK|FAILED)' "$log" | tail -n 1 | sed -n "s/.*$1=\([0-9]*\).*/\1/p"; }
    skipped=$(number skipped)
    part_failed=$(($(number failures || true) + 0))
    part_failed=$((part_failed + $(number errors || true) + 0))
    part_passed=$((${ran:-0} - part_failed - ${skipped:-0}))
    if [ "${skipped:-0}" -gt 0 ]; then echo "run-tests: $skipped skipped; each says why above"; fi
}

# In the place of the integration tests when this is not root.
needs_root() {
    echo "run-tests: the integration tests make network namespaces, taps and other users' processes, which" \
        "needs root: none has run. Try: sudo env \"PATH=\$PATH\" make test"
    return 1
}

# A check that only passes or fails.
count_check() { if [ "$status" -eq 0 ]; then part_passed=1; fi; }

# check-vectors.sh: `read 12 frame, 40 message and 9 session vectors`, or a line for each bad one.
count_vectors() {
    local count
    part_failed=$(grep -c '^check_vectors: ' "$log")
    for count in $(sed -n 's/^read //p' "$log" | tr -dc '0-9 '); do
        part_passed=$((part_passed + count))
    done
}

# simulate.py: the last line is `{"seeds": 300, …, "failedSeeds": [17]}`.
count_seeds() {
    local seeds
    seeds=$(sed -n 's/^{"seeds": \([0-9]*\),.*/\1/p' "$log" | tail -n 1)
    part_failed=$(sed -n 's/^{"seeds": .*"failedSeeds": \[\(.*\)\].*/\1/p' "$log" | tail -n 1 | wc -w)
    part_passed=$((${seeds:-0} - part_failed))
}

# check-model.sh: a line for each configuration and each mutant.
count_model() {
    part_passed=$(grep -c '^model: ok: ' "$log")
    part_failed=$(grep -c '^model: FAILED: ' "$log")
}

# fuzz.sh: a line for the replay and one for the fuzzing of each target.
count_fuzz() {
    part_passed=$(grep -c '^fuzz: ok: ' "$log")
    part_failed=$(grep -c '^fuzz: FAILED: ' "$log")
}

# check-mutants.py: a line for each deliberate bug.
count_mutants() {
    part_passed=$(grep -c '^check-mutants: ok: ' "$log")
    part_failed=$(grep -c '^check-mutants: FAILED: ' "$log")
}

parts=("$@")
if [ ${#parts[@]} -eq 0 ]; then
    parts=(swift specification model imports simulation compose fuzzing mutants integration soak)
fi
for part in "${parts[@]}"; do
    case $part in
        swift) again=1 run "Swift tests" count_swift swift test --skip-build ;;
        specification)
            run "specification's vectors" count_vectors \
                env PYTHON="$python" scripts/check-vectors.sh
            again=1 run "Python client" count_python \
                "$python" -m unittest discover -s proto-spec/python -v
            ;;
        model) run "model of the protocol, the short form" count_model scripts/check-model.sh --short ;;
        imports)
            run "tests of the scripts" count_python \
                "$python" -m unittest discover -s scripts -p 'test_*.py' -v
            run "import rule" count_check "$python" scripts/check-imports.py
            ;;
        simulation)
            run "simulation of 300 seeds" count_seeds \
                "$python" scripts/simulate.py --fermata "$FERMATA" --seeds 1..300 --profile small
            ;;
        compose)
            again=1 run "container files" count_python \
                "$python" -m unittest discover -s cluster/compose -p 'test_files.py' -v
            ;;
        fuzzing) run "fuzzing, the short form" count_fuzz scripts/fuzz.sh --seconds 30 ;;
        mutants)
            run "deliberate bugs, the short form" count_mutants \
                "$python" scripts/check-mutants.py --quick
            ;;
        integration)
            if [ "$(id -u)" -ne 0 ]; then
                run "integration" count_check needs_root
                continue
            fi
            run "integration" count_python \
                "$python" Tests/Integration/run_side_by_side.py
            ;;
        soak)
            run "soak, the short form" count_check \
                "$python" cluster/soak.py --fermata "$FERMATA" --cache "$FERMATA_CACHE" --seconds 60
            run "soak of a whole host, the short form" count_check \
                "$python" cluster/soak_host.py --fermata "$FERMATA" --cache "$FERMATA_CACHE" \
                --seconds 30
            ;;
        *)
            echo "run-tests: unknown part $part: swift specification model imports simulation compose fuzzing mutants integration soak" >&2
            exit 64
            ;;
    esac
done

echo
for note in "${notes[@]+"${notes[@]}"}"; do echo "$note"; done
for failure in "${failures[@]+"${failures[@]}"}"; do echo "FAILED: $failure"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
