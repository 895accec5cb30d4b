#include "threads/sysfs.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ml {

// What is no plain file is not waited for.
std::string read_file(const std::string &path, size_t most) {
    const int file = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) return {};
    std::string held;
    struct stat about;
    if (fstat(file, &about) == 0 && S_ISREG(about.st_mode)) {
        std::array<char, 4096> part;
        ssize_t got;
        while (held.size() < most && (got = read(file, part.data(), std::min(part.size(), most - held.size()))) > 0)
            held.append(part.data(), static_cast<size_t>(got));
    }
    close(file);
    const auto blank = [](char c) { return c == '\0' || std::isspace(static_cast<unsigned char>(c)); };
    while (!held.empty() && blank(held.back())) held.pop_back();
    held.erase(0, static_cast<size_t>(std::find_if_not(held.begin(), held.end(), blank) - held.begin()));
    return held;
}

bool take_number(std::string_view &text, uint64_t most, uint64_t &number) {
    size_t digits = 0;
    number = 0;
    for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; digits++) {
        number = number * 10 + static_cast<uint64_t>(text[digits] - '0');
        if (number > most) return false;
    }
    text.remove_prefix(digits);
    return digits > 0;
}

uint64_t number_of(const std::string &path, uint64_t most) {
    const std::string held = read_file(path);
    std::string_view text = held;
    uint64_t number;
    return take_number(text, most, number) && text.empty() ? number : 0;
}

} // namespace ml
