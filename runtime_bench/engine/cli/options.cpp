#include "options.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "error.h"

namespace ml {
namespace {

const Option kHelp{"--help", nullptr, "Show this text.", "-h"};

const Option *find(const CommandText &command, const std::string &name) {
    const auto is = [&](const Option &option) {
        return name == option.name || (option.short_name && name == option.short_name);
    };
    const auto found = std::find_if(command.options.begin(), command.options.end(), is);
    return found != command.options.end() ? &*found : is(kHelp) ? &kHelp : nullptr;
}

uint64_t whole_number(const std::string &name, const std::string &given, uint64_t least, uint64_t most) {
    const bool digits = !given.empty() && given.size() <= 19 &&
                        std::all_of(given.begin(), given.end(), [](char c) { return c >= '0' && c <= '9'; });
    const uint64_t value = digits ? std::strtoull(given.c_str(), nullptr, 10) : 0;
    if (!digits || value < least || value > most)
        throw Mistake(text(name, " '", given, "' is not a whole number from ", least, " to ", most));
    return value;
}

} // namespace

std::vector<std::string> comma_separated(const std::string &list) {
    std::vector<std::string> entries;
    for (size_t begin = 0; begin <= list.size(); begin += entries.back().size() + 1)
        entries.push_back(list.substr(begin, list.find(',', begin) - begin));
    return entries;
}

Arguments::Arguments(const CommandText &command, const std::vector<std::string> &given) {
    bool options = true, has_operand = false;
    for (size_t i = 0; i < given.size(); i++) {
        const std::string &word = given[i];
        if (options && word == "--") {
            options = false;
        } else if (options && word.size() > 1 && word[0] == '-') {
            const size_t equals = word.compare(0, 2, "--") == 0 ? word.find('=') : std::string::npos;
            const std::string name = word.substr(0, equals);
            const Option *option = find(command, name);
            if (!option) throw Mistake(text(command.name, " has no option ", name, "; see ", command.name, " --help"));
            if (!option->value && equals != std::string::npos) throw Mistake(text(name, " takes no value"));
            std::string given_value;
            if (option->value) {
                if (equals == std::string::npos && i + 1 == given.size())
                    throw Mistake(text(name, " needs a value, ", option->value));
                given_value = equals == std::string::npos ? given[++i] : word.substr(equals + 1);
            }
            given_[option->name] = given_value;
        } else if (command.operand && !has_operand) {
            operand_ = word;
            has_operand = true;
        } else {
            throw Mistake(text("'", word, "' is one word too many; see ", command.name, " --help"));
        }
    }
    if (command.operand && !has_operand && !help())
        throw Mistake(text(command.name, " needs an artifact (.safetensors, made by mobileloop export --to engine)"));
}

std::optional<std::string> Arguments::value(const std::string &name) const {
    const auto found = given_.find(name);
    return found == given_.end() ? std::nullopt : std::optional(found->second);
}

uint64_t Arguments::whole(const std::string &name, uint64_t otherwise, uint64_t least, uint64_t most) const {
    const auto given = value(name);
    return given ? whole_number(name, *given, least, most) : otherwise;
}

double Arguments::number(const std::string &name, double otherwise, double least, double most) const {
    const auto given = value(name);
    if (!given) return otherwise;
    char *end = nullptr;
    const double parsed = std::strtod(given->c_str(), &end);
    if (given->empty() || *end || !(parsed >= least && parsed <= most)) {
        char range[80];
        std::snprintf(range, sizeof range, "%g to %g", least, most);
        throw Mistake(text(name, " '", *given, "' is not a number from ", range));
    }
    return parsed;
}

std::vector<uint64_t> Arguments::list(const std::string &name, uint64_t least, uint64_t most) const {
    std::vector<uint64_t> values;
    if (has(name))
        for (const std::string &entry : comma_separated(*value(name)))
            values.push_back(whole_number(name, entry, least, most));
    return values;
}

std::vector<uint32_t> Arguments::ranges(const std::string &name, uint32_t most) const {
    std::vector<uint32_t> values;
    if (!has(name)) return values;
    for (const std::string &entry : comma_separated(*value(name))) {
        const size_t dash = entry.find('-');
        const uint64_t first = whole_number(name, entry.substr(0, dash), 0, most);
        const uint64_t last =
            dash == std::string::npos ? first : whole_number(name, entry.substr(dash + 1), first, most);
        for (uint64_t value = first; value <= last; value++) values.push_back(static_cast<uint32_t>(value));
    }
    return values;
}

std::string help_of(const CommandText &command) {
    std::string out = text("Usage: mobileloop-engine ", command.name, command.operand ? " FILE" : "",
                           " [OPTION...]\n\n", command.summary, "\n\nOptions:\n");
    std::vector<Option> options = command.options;
    options.push_back(kHelp);
    size_t width = 0;
    const auto left = [](const Option &option) {
        std::string names = option.name;
        if (option.value) names += text(" ", option.value);
        if (option.short_name) names += text(", ", option.short_name);
        return names;
    };
    for (const Option &option : options) width = std::max(width, left(option).size());
    for (const Option &option : options) {
        const std::string names = left(option);
        out += text("  ", names, std::string(width + 2 - names.size(), ' '), option.help, "\n");
    }
    return out + text("\nExamples:\n", command.examples);
}

} // namespace ml
