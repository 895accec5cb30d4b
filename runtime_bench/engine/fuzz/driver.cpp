// A fuzz driver for compilers without libFuzzer: it changes inputs of a corpus at random, from a fixed seed, for a
// number of inputs or of seconds. What is being run lies in a file, which stays behind when the process dies.
//
//     fuzz_json CORPUS... --inputs 1000 [--seconds 20] [--seed 1] [--found FILE] [--max-bytes 200000]
//     fuzz_json FILE...                     runs these inputs as they are
#include <algorithm>
#include <chrono>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

#include "targets.h"

namespace {

using Bytes = std::vector<uint8_t>;

Bytes read_file(const std::string &path) {
    Bytes bytes;
    FILE *file = std::fopen(path.c_str(), "rb");
    fuzz::must(file != nullptr, ("cannot open " + path).c_str());
    uint8_t part[1 << 16];
    for (size_t got; (got = std::fread(part, 1, sizeof part, file)) > 0;) bytes.insert(bytes.end(), part, part + got);
    std::fclose(file);
    return bytes;
}

// The files of a folder in the order of their names, or the file itself.
void add_inputs(const std::string &path, std::vector<Bytes> &corpus) {
    DIR *folder = opendir(path.c_str());
    if (!folder) return corpus.push_back(read_file(path));
    std::vector<std::string> names;
    while (const dirent *entry = readdir(folder))
        if (entry->d_name[0] != '.') names.push_back(path + "/" + entry->d_name);
    closedir(folder);
    std::sort(names.begin(), names.end());
    for (const std::string &name : names) corpus.push_back(read_file(name));
}

class Mutator {
public:
    Mutator(const std::vector<Bytes> &corpus, uint32_t seed, size_t most)
        : corpus_(corpus), random_(seed), most_(most) {}

    Bytes next() {
        Bytes bytes = corpus_[below(corpus_.size())];
        for (size_t left = 1 + below(4) * below(4); left > 0; left--) change(bytes);
        if (bytes.size() > most_) bytes.resize(most_);
        return bytes;
    }

private:
    size_t below(size_t bound) { return bound ? random_() % bound : 0; }

    // Half of the changes hit the first kilobytes, where headers are.
    size_t place(const Bytes &bytes) { return below(below(2) ? bytes.size() : std::min<size_t>(bytes.size(), 4096)); }

    void change(Bytes &bytes) {
        static const uint64_t kInteresting[] = {
            0,          1,     2,          3,          7,          8,          16,       31,
            32,         64,    127,        128,        255,        256,        4095,     4096,
            32767,      65535, 65536,      0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1u << 24, uint64_t{1} << 32,
            1ull << 63, ~0ull, 0x7F800000, 0x7FC00000, 0xFF7FFFFF};
        static const char *const kWords[] = {"null",
                                             "true",
                                             "false",
                                             "-1",
                                             "1e308",
                                             "0.5",
                                             "\"\"",
                                             "[]",
                                             "{}",
                                             "[[[[[[[[",
                                             "\\ud800",
                                             "\\u0000",
                                             "\"type\":\"Sequence\"",
                                             "\"id\":0,",
                                             "1048576",
                                             "1024",
                                             "0"};
        if (bytes.empty()) return bytes.push_back(static_cast<uint8_t>(random_()));
        const size_t at = place(bytes), length = 1 + below(std::min<size_t>(bytes.size() - at, 64));
        const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        switch (below(9)) {
        case 0: bytes[at] ^= static_cast<uint8_t>(1u << below(8)); break;
        case 1: bytes[at] = static_cast<uint8_t>(random_()); break;
        case 2: bytes[at] = static_cast<uint8_t>(bytes[at] + below(5) - 2); break;
        case 3: { // a number of 1, 2, 4 or 8 bytes, mostly where numbers lie
            const uint64_t value = kInteresting[below(std::size(kInteresting))];
            const size_t width = size_t{1} << below(4), aligned = below(4) ? at / width * width : at;
            std::memcpy(bytes.data() + aligned, &value, std::min(width, bytes.size() - aligned));
            break;
        }
        case 4: bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(length)); break;
        case 5: { // repeat a part
            const Bytes part(begin, begin + static_cast<std::ptrdiff_t>(length));
            bytes.insert(begin, part.begin(), part.end());
            break;
        }
        case 6: { // a part of another input
            const Bytes &other = corpus_[below(corpus_.size())];
            if (other.empty()) break;
            const size_t from = place(other), count = std::min(length, other.size() - from);
            std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(from), std::min(count, bytes.size() - at), begin);
            break;
        }
        case 7: { // a word of the grammar, in place of a part or between
            const char *word = kWords[below(std::size(kWords))];
            const size_t replaced = below(2) ? std::min(std::strlen(word), bytes.size() - at) : 0;
            const auto end = begin + static_cast<std::ptrdiff_t>(replaced);
            const auto where = bytes.erase(begin, end);
            bytes.insert(where, word, word + std::strlen(word));
            break;
        }
        default: bytes.resize(below(4) ? bytes.size() : at); break; // cut short
        }
    }

    const std::vector<Bytes> &corpus_;
    std::mt19937 random_;
    size_t most_;
};

// Keeps the running input in a file, which stays behind when the process dies.
class Running {
public:
    explicit Running(const std::string &path) : path_(path) {
        if (path.empty()) return;
        file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        fuzz::must(file_ >= 0, "the file of findings cannot be written");
    }
    void set(const Bytes &input) const {
        if (path_.empty()) return;
        const auto size = static_cast<off_t>(input.size());
        fuzz::must(pwrite(file_, input.data(), input.size(), 0) == size && ftruncate(file_, size) == 0,
                   "the running input cannot be kept");
    }
    void remove() const {
        if (!path_.empty()) unlink(path_.c_str());
    }

private:
    std::string path_;
    int file_ = -1;
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

} // namespace

int main(int argc, char **argv) {
    std::vector<Bytes> corpus;
    std::string found;
    uint64_t inputs = 0, seed = 1, most = 200000;
    double seconds = 0;
    for (int i = 1; i < argc; i++) {
        const std::string word = argv[i];
        if (word.compare(0, 2, "--") != 0) {
            add_inputs(word, corpus);
            continue;
        }
        fuzz::must(i + 1 < argc, "an option needs a value");
        const char *value = argv[++i];
        if (word == "--inputs") {
            inputs = std::strtoull(value, nullptr, 10);
        } else if (word == "--seconds") {
            seconds = std::strtod(value, nullptr);
        } else if (word == "--seed") {
            seed = std::strtoull(value, nullptr, 10);
        } else if (word == "--max-bytes") {
            most = std::strtoull(value, nullptr, 10);
        } else {
            fuzz::must(word == "--found", "an unknown option");
            found = value;
        }
    }
    fuzz::must(!corpus.empty(), "there is no input; name a folder of them");
    const Running running(found);
    for (const Bytes &input : corpus) {
        running.set(input);
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    Mutator mutator(corpus, static_cast<uint32_t>(seed), most);
    uint64_t ran = 0;
    for (const double start = now(); ran < inputs || (seconds > 0 && now() - start < seconds); ran++) {
        const Bytes input = mutator.next();
        running.set(input);
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    running.remove();
    std::printf("%zu inputs of the corpus and %llu changed ones ran\n", corpus.size(),
                static_cast<unsigned long long>(ran));
    return 0;
}
