// Command lines: what a command takes, its help, and the values given.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace ml {

// A mistake of the user's: one sentence, exit code 2.
struct Mistake : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Option {
    const char *name;  // "--threads"
    const char *value; // what stands for its value in the help; null for a flag
    const char *help;
    const char *short_name = nullptr; // "-n"
};

struct CommandText {
    const char *name, *operand, *summary; // operand: "FILE", or null
    std::vector<Option> options;
    const char *examples;
};

class Arguments {
public:
    // Throws Mistake for an unknown option, a missing value, a missing or a second operand.
    Arguments(const CommandText &command, const std::vector<std::string> &given);

    const std::string &operand() const { return operand_; }
    bool help() const { return given_.count("--help") != 0; }
    bool has(const std::string &name) const { return given_.count(name) != 0; }
    std::optional<std::string> value(const std::string &name) const;
    uint64_t whole(const std::string &name, uint64_t otherwise, uint64_t least, uint64_t most) const;
    double number(const std::string &name, double otherwise, double least, double most) const;
    // Whole numbers with commas between them; empty where the option is not given.
    std::vector<uint64_t> list(const std::string &name, uint64_t least, uint64_t most) const;
    // The same with rising ranges, such as 4-7,2.
    std::vector<uint32_t> ranges(const std::string &name, uint32_t most) const;

private:
    std::string operand_;
    std::map<std::string, std::string> given_;
};

// At least one, which may be empty.
std::vector<std::string> comma_separated(const std::string &list);

std::string help_of(const CommandText &command);

} // namespace ml
