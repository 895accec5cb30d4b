// `tokenize`: texts to tokens and back, as `generate` does it.
#include <cstdio>

#include "artifact_tokenizer.h"
#include "commands.h"
#include "format/json_writer.h"

namespace ml {

const CommandText kTokenize{
    "tokenize",
    "FILE",
    "Turn texts into token ids, or back: texts come from stdin, one in each line; for each a line of JSON goes to "
    "stdout.",
    {
        {"--null", nullptr, "Texts end in zero bytes, so that they can hold line ends.", "-0"},
        {"--json-lines", nullptr, "Each line is a JSON string, which can hold anything."},
        {"--plain", nullptr, "Leave out what the model wants around a text, such as the first token."},
        {"--chat", nullptr, "Put each text into the model's chat template, if it puts turns between fixed texts."},
        {"--system", "TEXT", "System message of a chat; the template's own when not given."},
        {"--decode", nullptr, "The other way: each line is a JSON list of ids, and becomes a JSON string."},
    },
    "  echo 'Once upon a time' | mobileloop-engine tokenize smollm2.safetensors\n"
    "  find . -name '*.txt' -exec cat {} + | mobileloop-engine tokenize smollm2.safetensors --null\n"
    "  echo '[6403, 1980]' | mobileloop-engine tokenize smollm2.safetensors --decode\n",
};

namespace {

// The next text of the standard input, without the byte that ends it; false behind the last.
bool read_text(char end, std::string &given) {
    given.clear();
    int c;
    while ((c = std::getc(stdin)) != EOF) {
        if (c == static_cast<unsigned char>(end)) return true;
        given += static_cast<char>(c);
    }
    return !given.empty();
}

std::vector<uint32_t> ids_of(const Json &list) {
    std::vector<uint32_t> ids;
    for (const Json &id : list.array("the line"))
        ids.push_back(static_cast<uint32_t>(id.whole("a token", 0, UINT32_MAX)));
    return ids;
}

std::string answer(const Arguments &arguments, const Tokenizer &tokenizer, const std::string &given) {
    if (arguments.has("--decode")) return to_json(tokenizer.decode(ids_of(Json::parse(given))));
    const std::string text = lossy_utf8(arguments.has("--json-lines") ? Json::parse(given).string("the line") : given);
    return to_json(arguments.has("--chat") ? tokenizer.chat(text, arguments.value("--system"))
                                           : tokenizer.encode(text, !arguments.has("--plain")));
}

void check(const Arguments &arguments) {
    const int forms = arguments.has("--null") + arguments.has("--json-lines") + arguments.has("--decode");
    if (forms > 1) throw Mistake("--null, --json-lines and --decode exclude each other");
    if (arguments.has("--system") && !arguments.has("--chat")) throw Mistake("--system needs --chat");
    for (const char *other : {"--decode", "--plain"})
        if (arguments.has("--chat") && arguments.has(other))
            throw Mistake(text("--chat and ", other, " exclude each other"));
    if (!is_utf8(arguments.value("--system").value_or(""))) throw Mistake("the system message is not UTF-8 text");
}

} // namespace

int run_tokenize(const Arguments &arguments) {
    check(arguments);
    const Description about(arguments.operand());
    const auto tokenizer = read_tokenizer(about, "make the tokens elsewhere");
    std::string given;
    const char end = arguments.has("--null") ? '\0' : '\n';
    for (uint64_t number = 1; !stop_requested && read_text(end, given); number++) {
        try {
            print(answer(arguments, *tokenizer, given) + "\n");
        } catch (const Error &error) {
            throw Error(text(error.what(), " (text ", number, " of the standard input)"));
        }
    }
    return stop_requested ? kInterrupted : 0;
}

} // namespace ml
