// Prints a number over every bit that sessions give on the artifacts named, for each kernel set that the processor
// runs: the same for all sets, whatever compiler built them.
//
//     bits FILE...
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "mobileloop.h"

namespace {

void must(ml_status status) {
    if (status == ML_OK) return;
    std::fprintf(stderr, "bits: %s\n", ml_last_error());
    std::exit(1);
}

// FNV-1a, 64 bits.
struct Hash {
    uint64_t value = 0xcbf29ce484222325u;
    void add(const std::vector<float> &floats) {
        std::vector<unsigned char> bytes(floats.size() * sizeof(float));
        std::memcpy(bytes.data(), floats.data(), bytes.size());
        for (const unsigned char byte : bytes) value = (value ^ byte) * 0x100000001b3u;
    }
};

void run(const char *path, uint32_t threads, uint32_t loops, Hash &hash) {
    ml_model *model = nullptr;
    must(ml_model_open(path, &model));
    const uint32_t vocab = ml_model_vocab_size(model);
    if (loops <= ml_model_max_loops(model)) {
        ml_session *session = nullptr;
        must(ml_session_create(model, threads, loops, 2, &session));
        for (const uint32_t count : {5u, 1u, 1u, 2u}) {
            std::vector<int64_t> tokens(size_t{2} * count);
            for (size_t i = 0; i < tokens.size(); i++) tokens[i] = static_cast<int64_t>((7 * i + 3 * count) % vocab);
            std::vector<float> logits(tokens.size() * vocab);
            ml_run_args args{};
            args.num_sequences = 2;
            args.tokens = tokens.data();
            args.count = count;
            args.all_logits = 1;
            args.logits = logits.data();
            args.logits_floats = logits.size();
            must(ml_session_run(session, &args));
            hash.add(logits);
        }
        ml_session_destroy(session);
    }
    ml_model_close(model);
}

} // namespace

int main(int argc, char **argv) {
    std::istringstream sets(ml_available_kernels());
    for (std::string set; std::getline(sets, set, ',');) {
        must(ml_use_kernels(set.c_str()));
        Hash hash;
        for (int i = 1; i < argc; i++)
            for (const uint32_t threads : {1u, 2u})
                for (const uint32_t loops : {0u, 1u, 3u}) run(argv[i], threads, loops, hash);
        std::printf("%s %016llx\n", set.c_str(), static_cast<unsigned long long>(hash.value));
    }
    return 0;
}
