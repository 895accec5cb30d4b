#!/bin/sh
# Runs every fuzz target of a build folder for FUZZ_SECONDS each. Crashing inputs land in FOLDER/found; the exit code is
# 1 where there is one.
folder=$1
here=$(dirname "$0")
failed=0
mkdir -p "$folder/found"
for target in artifact json loop record tokenizer; do
    program=$folder/fuzz_$target
    if [ -e "$folder/libfuzzer" ]; then
        mkdir -p "$folder/grown/$target"
        set -- -max_total_time="$FUZZ_SECONDS" -max_len=200000 -timeout=60 -rss_limit_mb=4096 \
            -artifact_prefix="$folder/found/$target-" "$folder/grown/$target" "$here/corpus/$target"
    else
        set -- "$here/corpus/$target" --seconds "$FUZZ_SECONDS" --seed "$(date +%s)" --found "$folder/found/$target"
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
