#!/bin/sh
# Runs every fuzz target of a build folder for FUZZ_SECONDS each. Crashing inputs land in FOLDER/found; the exit code is
# 1 where there is one.
folder=$1
here=$(dirname "$0")
failed=0
# Short stacks and a small quarantine: allocations are most of what a target does. Without the bookkeeping of rare
# features too, which is half of the time of a target as small as these.
export ASAN_OPTIONS="malloc_context_size=4:quarantine_size_mb=16:${ASAN_OPTIONS:-}"
mkdir -p "$folder/found"
for target in artifact json loop record session tokenizer; do
    program=$folder/fuzz_$target
    case $target in # what lies far behind the largest seed only takes time
        artifact) longest=20000 ;;
        json) longest=2000 ;;
        session) longest=200 ;;
        *) longest=8000 ;;
    esac
    if [ -e "$folder/libfuzzer" ]; then
        mkdir -p "$folder/grown/$target"
        set -- -max_total_time="$FUZZ_SECONDS" -max_len=$longest -timeout=60 -entropic=0 -rss_limit_mb=4096 \
            -artifact_prefix="$folder/found/$target-" "$folder/grown/$target" "$here/corpus/$target"
    else
        set -- "$here/corpus/$target" --seconds "$FUZZ_SECONDS" --seed "$(date +%s)" --max-bytes $longest \
            --found "$folder/found/$target"
    fi
    echo "fuzzing: $target, $FUZZ_SECONDS s"
    if ! "$program" "$@" >"$folder/$target.log" 2>&1; then
        failed=1
        echo "$target failed; its last words are in $folder/$target.log, its input in $folder/found"
        tail -5 "$folder/$target.log"
    else
        tail -1 "$folder/$target.log"
    fi
done
exit $failed
