// What counting_plugin.c counts of the engine, between marks:
//
//   evidence decode ARTIFACT LOOPS THREADS TOKENS [PREFIX]   decoding of TOKENS tokens behind PREFIX (16) others
//   evidence product SCHEME ROWS COLS TOKENS                 one matrix product, random weights, of TOKENS rows
//   evidence stream BYTES PASSES                             reads of a buffer in order, as a check of the plugin
//
// The kernel set is MOBILELOOP_KERNELS or the best of the emulated processor; it is printed. Without the plugin the
// program runs and counts nothing, so that other tools (valgrind) can count the difference of two runs.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "error.h"
#include "kernels/kernels.h"
#include "marks.h"
#include "session/session.h"

using namespace ml;

namespace {

uint32_t number(const char *text) {
    char *end = nullptr;
    const unsigned long value = std::strtoul(text, &end, 10);
    require(*text && !*end && value <= UINT32_MAX, "'", text, "' is not a whole number below 2^32");
    return static_cast<uint32_t>(value);
}

void check(ml_status status) { require(status == ML_OK, ml_last_error()); }

void mark_weights(const ml_record &record) { mark(Region::weights, record.data, record.size_bytes); }

void run(ml_session &session, const std::vector<int64_t> &tokens, std::vector<float> &logits) {
    ml_run_args args{};
    args.num_sequences = 1;
    args.tokens = tokens.data();
    args.count = static_cast<uint32_t>(tokens.size());
    args.logits = logits.data();
    args.logits_floats = logits.size();
    check(ml_session_run(&session, &args));
}

void decode(const char *artifact, uint32_t loops, uint32_t threads, uint32_t tokens, uint32_t prefix) {
    ml_model *model = nullptr;
    check(ml_model_open(artifact, &model));
    ml_session *session = nullptr;
    check(ml_session_create(model, threads, loops, 1, &session));
    session->context().pool.keep_all();
    const Model &parts = *model->model;
    for (const ml_record &block : parts.blocks) mark_weights(block);
    mark_weights(parts.head);
    if (parts.embedding.data != parts.head.data) mark_weights(parts.embedding);
    mark(Region::kv, session->kv().data(), session->kv().size());
    std::vector<float> logits(parts.vocab_size);
    const auto token = [&](uint32_t i) { return static_cast<int64_t>(i % parts.vocab_size); };
    std::vector<int64_t> prompt;
    for (uint32_t i = 0; i < prefix; i++) prompt.push_back(token(i));
    if (prefix) run(*session, prompt, logits);
    mark(Mark::warm);
    run(*session, {token(prefix)}, logits); // what a token leaves in the caches, the next one finds
    mark(Mark::count);
    for (uint32_t i = 1; i <= tokens; i++) run(*session, {token(prefix + i)}, logits);
    mark(Mark::report);
    ml_session_destroy(session);
    ml_model_close(model);
}

Scheme scheme_of(const std::string &name) {
    if (name == "int4-symmetric") return Scheme::int4_symmetric;
    if (name == "int4") return Scheme::int4;
    if (name == "int8") return Scheme::int8;
    throw Error(text("the scheme '", name, "' is not one of int4-symmetric, int4 and int8"));
}

void product(const char *scheme, uint32_t rows, uint32_t cols, uint32_t tokens) {
    require(rows && cols && cols % kGroup == 0 && tokens, "rows and tokens are at least 1, cols a multiple of ",
            kGroup);
    Matrix m;
    m.scheme = scheme_of(scheme);
    m.rows = rows;
    m.cols = cols;
    m.row_groups = (rows + kTileRows - 1) / kTileRows;
    m.groups = cols / kGroup;
    std::mt19937 random(1);
    std::vector<uint8_t> tiles(size_t{m.row_groups} * m.groups * tile_bytes(m.scheme));
    for (uint8_t &byte : tiles) byte = static_cast<uint8_t>(random());
    m.tiles = tiles.data();
    ActivationScratch scratch;
    const Activations a = scratch.rows(tokens, cols);
    for (size_t i = 0; i < tokens * a.stride; i++) a.floats[i] = static_cast<float>(random() % 2000) / 1000.0f - 1.0f;
    const Kernels &kernels = current_kernels();
    kernels.quantize(a, 0, tokens);
    std::vector<float> y(size_t{tokens} * rows);
    mark(Region::weights, tiles.data(), tiles.size());
    mark(Mark::warm);
    mark(Mark::count);
    kernels.multiply(m, 0, m.row_groups, a, tokens, y.data(), rows, false, nullptr);
    mark(Mark::report);
}

void stream(uint32_t bytes, uint32_t passes) {
    std::vector<uint64_t> buffer(bytes / sizeof(uint64_t));
    uint64_t *const aligned = reinterpret_cast<uint64_t *>((reinterpret_cast<uintptr_t>(buffer.data()) + 63) / 64 * 64);
    const size_t size = (bytes - 64) / sizeof(uint64_t);
    volatile uint64_t sum = 0;
    const auto pass = [&] {
        uint64_t total = 0;
        for (size_t i = 0; i < size; i += 8) total += aligned[i];
        sum = sum + total;
    };
    mark(Region::weights, aligned, size * sizeof(uint64_t));
    mark(Mark::warm);
    mark(Mark::count);
    for (uint32_t i = 0; i < passes; i++) pass();
    mark(Mark::report);
}

void dispatch(int argc, char **argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "decode" && (argc == 6 || argc == 7)) {
        decode(argv[2], number(argv[3]), number(argv[4]), number(argv[5]), argc == 7 ? number(argv[6]) : 16);
    } else if (what == "product" && argc == 6) {
        product(argv[2], number(argv[3]), number(argv[4]), number(argv[5]));
    } else if (what == "stream" && argc == 4) {
        stream(number(argv[2]), number(argv[3]));
    } else {
        throw Error("evidence decode ARTIFACT LOOPS THREADS TOKENS [PREFIX] | product SCHEME ROWS COLS TOKENS | stream "
                    "BYTES PASSES");
    }
}

} // namespace

int main(int argc, char **argv) {
    try {
        require(*ml_kernels(), ml_last_error());
        dispatch(argc, argv);
        std::printf("%s of %s\n", ml_kernels(), ml_available_kernels());
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "evidence: %s\n", error.what());
        return 2;
    }
}
