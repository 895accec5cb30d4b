// Who may share what between threads, and what happens when memory runs out: meant for ThreadSanitizer and for
// AddressSanitizer, over one artifact that the command line names.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "checks.h"
#include "mobileloop.h"

namespace {

// Allocations of this thread fail once this many have been made; -1 is never.
thread_local long allocations_left = -1;

const std::vector<int64_t> kTokens{3, 1, 4, 1, 5, 9, 2, 6};

// Tokens of sequence 0; logits [vocab] of the last one.
ml_status run_tokens(ml_session *session, const int64_t *tokens, size_t count, std::vector<float> &logits) {
    ml_run_args args{};
    args.num_sequences = 1;
    args.tokens = tokens;
    args.count = static_cast<uint32_t>(count);
    args.logits = logits.data();
    args.logits_floats = logits.size();
    return ml_session_run(session, &args);
}

std::vector<float> logits_of(ml_model *model, uint32_t threads, bool &good) {
    std::vector<float> logits(ml_model_vocab_size(model));
    ml_session *session = nullptr;
    good = ml_session_create(model, threads, 0, 1, &session) == ML_OK &&
           run_tokens(session, kTokens.data(), kTokens.size(), logits) == ML_OK;
    for (int64_t token = 0; good && token < 4; token++) good = run_tokens(session, &token, 1, logits) == ML_OK;
    ml_session_destroy(session);
    return logits;
}

// Sessions of one model in threads of their own, each with threads of its own, and the model closed under them.
void test_sessions_share_a_model(const char *path) {
    ml_model *model = nullptr;
    CHECK(ml_model_open(path, &model) == ML_OK);
    bool good = false;
    const std::vector<float> expected = logits_of(model, 1, good);
    CHECK(good);
    std::vector<std::vector<float>> found(4);
    std::atomic<int> ran{0};
    std::vector<std::thread> threads;
    for (size_t i = 0; i < found.size(); i++)
        threads.emplace_back([&, i] {
            bool well = false;
            found[i] = logits_of(model, static_cast<uint32_t>(1 + i % 2), well);
            ran += well;
        });
    for (std::thread &thread : threads) thread.join();
    ml_model_close(model);
    CHECK(ran == 4);
    for (const std::vector<float> &logits : found)
        CHECK(std::memcmp(logits.data(), expected.data(), expected.size() * sizeof(float)) == 0);
}

// Every thread opens, runs and closes; kernel sets are chosen and last errors are set meanwhile.
void test_contexts_of_many_threads(const char *path) {
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++)
        threads.emplace_back([&, i] {
            for (int round = 0; round < 3; round++) {
                ml_context *context = nullptr;
                wrong += ml_context_create(2, &context) != ML_OK;
                const std::string bad = std::string("kernels-") + std::to_string(i);
                wrong += ml_use_kernels(bad.c_str()) == ML_OK;
                wrong += std::string(ml_last_error()).find(bad) == std::string::npos; // of this thread, not another's
                wrong += *ml_kernels() == 0;
                const ml_record nothing{nullptr, 0};
                wrong += ml_embed(context, nothing, nullptr, 1, nullptr, 1) == ML_OK;
                ml_context_destroy(context);
                ml_model *model = nullptr;
                wrong += ml_model_open(path, &model) != ML_OK;
                ml_model_close(model);
            }
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(wrong == 0);
}

// One session in two threads at once: one call runs, the other is refused by name; nothing is raced.
void test_one_session_in_two_threads(const char *path) {
    ml_model *model = nullptr;
    CHECK(ml_model_open(path, &model) == ML_OK);
    ml_session *session = nullptr;
    CHECK(ml_session_create(model, 2, 0, 1, &session) == ML_OK);
    const uint32_t vocab = ml_model_vocab_size(model);
    ml_model_close(model);
    std::atomic<int> ran{0}, refused{0}, wrong{0};
    std::atomic<bool> go{false};
    // On a busy machine the calls of the two threads may take turns for long: they go on until two of them meet.
    const auto latest = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    const auto work = [&] {
        std::vector<float> logits(vocab);
        while (!go) std::this_thread::yield();
        for (int i = 0; i < 20 || (refused == 0 && std::chrono::steady_clock::now() < latest); i++) {
            const ml_status status =
                i % 4 == 3 ? ml_session_reset(session, 0) : run_tokens(session, kTokens.data(), 2, logits);
            const std::string said = status == ML_OK ? "" : ml_last_error();
            ran += status == ML_OK;
            refused += said.find("already running in another thread") != std::string::npos;
            wrong += status != ML_OK && said.find("already running") == std::string::npos &&
                     said.find("do not fit the context") == std::string::npos;
        }
    };
    std::thread first(work), second(work);
    go = true;
    first.join();
    second.join();
    CHECK(ran > 0);
    CHECK(refused > 0);
    CHECK(wrong == 0);
    CHECK(ml_session_reset(session, 0) == ML_OK);
    ml_session_destroy(session);
}

// Every allocation of an open, a session and a run fails once: each is a status and a sentence, nothing leaks.
void test_no_memory(const char *path) {
    ml_model *model = nullptr;
    CHECK(ml_model_open(path, &model) == ML_OK);
    const uint32_t vocab = ml_model_vocab_size(model);
    std::vector<float> logits(vocab);
    bool done = false;
    int refused = 0;
    for (long count = 0; !done && count < 20000; count += count < 200 ? 1 : 97) {
        ml_model *again = nullptr;
        ml_session *session = nullptr;
        allocations_left = count;
        const bool opened = ml_model_open(path, &again) == ML_OK;
        const bool made = opened && ml_session_create(again, 1, 0, 1, &session) == ML_OK;
        done = made && run_tokens(session, kTokens.data(), kTokens.size(), logits) == ML_OK;
        allocations_left = -1;
        refused += !done && std::strcmp(ml_last_error(), "the engine is out of memory") == 0;
        CHECK(done || *ml_last_error() != 0);
        ml_session_destroy(session);
        ml_model_close(again);
    }
    CHECK(done);
    CHECK(refused > 100);
    ml_model_close(model);
}

} // namespace

// Allocations that can be told to fail.
void *operator new(size_t size) {
    if (allocations_left == 0) throw std::bad_alloc();
    if (allocations_left > 0) allocations_left--;
    if (void *made = std::malloc(size ? size : 1)) return made;
    throw std::bad_alloc();
}
void *operator new[](size_t size) { return operator new(size); }
void *operator new(size_t size, std::align_val_t alignment) {
    if (allocations_left == 0) throw std::bad_alloc();
    if (allocations_left > 0) allocations_left--;
    const size_t to = static_cast<size_t>(alignment);
    if (void *made = std::aligned_alloc(to, (size + to - 1) / to * to)) return made;
    throw std::bad_alloc();
}
void *operator new[](size_t size, std::align_val_t alignment) { return operator new(size, alignment); }
void operator delete(void *place) noexcept { std::free(place); }
void operator delete[](void *place) noexcept { std::free(place); }
void operator delete(void *place, size_t) noexcept { std::free(place); }
void operator delete[](void *place, size_t) noexcept { std::free(place); }
void operator delete(void *place, std::align_val_t) noexcept { std::free(place); }
void operator delete[](void *place, std::align_val_t) noexcept { std::free(place); }
void operator delete(void *place, size_t, std::align_val_t) noexcept { std::free(place); }
void operator delete[](void *place, size_t, std::align_val_t) noexcept { std::free(place); }

int main(int argc, char **argv) {
    if (argc != 2) return std::printf("name one artifact\n"), 2;
    test_sessions_share_a_model(argv[1]);
    test_contexts_of_many_threads(argv[1]);
    test_one_session_in_two_threads(argv[1]);
    test_no_memory(argv[1]);
    return outcome();
}
