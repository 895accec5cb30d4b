// Small files of procfs and sysfs, and the numbers in them. What is in them is not trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ml {

// The first `most` bytes of a file of procfs or sysfs without the blanks around them; empty where it cannot be read. A
// list of every other cpu of kMaxCpus is a third of the default.
std::string read_file(const std::string &path, size_t most = 16384);

// Takes digits off the front of a text; false where there are none, or the number is beyond `most`.
bool take_number(std::string_view &text, uint64_t most, uint64_t &number);

// A file that holds one number; 0 where it holds anything else, or more than `most`.
uint64_t number_of(const std::string &path, uint64_t most);

} // namespace ml
