// mobileloop-engine: run and measure engine artifacts where there is no Python, such as a phone's shell.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <unistd.h>

#include "commands.h"
#include "error.h"

namespace ml {

volatile std::sig_atomic_t stop_requested = 0;

void print(const std::string &text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw OutputFailure();
}

double milliseconds_now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
    const size_t half = values.size() / 2;
    std::sort(values.begin(), values.end());
    return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::string fixed(double value, int digits) {
    char out[400];
    std::snprintf(out, sizeof out, "%.*f", digits, value);
    return out;
}

std::string counted(uint64_t count, const char *what) { return text(count, " ", what, count == 1 ? "" : "s"); }

namespace {

constexpr const char *kHelp =
    "mobileloop-engine: run and measure mobileloop engine artifacts, without Python.\n"
    "\n"
    "Usage: mobileloop-engine COMMAND [FILE] [OPTION...]\n"
    "\n"
    "Commands:\n"
    "  info FILE      what an artifact is: model, schedule, quantization, bytes per token\n"
    "  generate FILE  generate text\n"
    "  tokenize FILE  texts from stdin to token ids, and back\n"
    "  bench FILE     measure load, first token, prefill and decode by loops and threads\n"
    "  bandwidth      measure the read bandwidth of this machine, from cache to memory\n"
    "\n"
    "  COMMAND --help shows a command's options, --version the version.\n"
    "\n"
    "Examples:\n"
    "  mobileloop-engine info smollm2.safetensors\n"
    "  mobileloop-engine generate smollm2.safetensors --chat --prompt \"What is the capital of France?\"\n"
    "  mobileloop-engine bench smollm2.safetensors --threads 1,4 --loops 1,2,4 --json > phone.json\n"
    "  mobileloop-engine bandwidth --threads 1,2,4\n"
    "\n"
    "Exit codes: 0 well, 1 the machine refused (output, memory), 2 a mistake in the command or the file, 130 Ctrl-C.\n"
    "MOBILELOOP_KERNELS names the kernel set, such as scalar.\n";

void on_interrupt(int) { stop_requested = 1; }

// A path or a damaged file may put anything into a message; a terminal gets none of it as commands.
std::string printable(std::string message) {
    for (char &c : message)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    return message;
}

int run(const std::vector<std::string> &words) {
    if (words.empty()) {
        std::fputs(kHelp, stderr);
        return 2;
    }
    if (words[0] == "--help" || words[0] == "-h") return print(kHelp), 0;
    if (words[0] == "--version") return print("mobileloop-engine " ML_VERSION "\n"), 0;
    for (const CommandText *command : {&kInfo, &kGenerate, &kTokenize, &kBench, &kBandwidth}) {
        if (words[0] != command->name) continue;
        const Arguments arguments(*command, {words.begin() + 1, words.end()});
        if (arguments.help()) return print(help_of(*command)), 0;
        if (command == &kInfo) return run_info(arguments);
        if (command == &kGenerate) return run_generate(arguments);
        if (command == &kTokenize) return run_tokenize(arguments);
        if (command == &kBandwidth) return run_bandwidth(arguments);
        std::string line = "mobileloop-engine";
        for (const std::string &word : words) line += " " + word;
        return run_bench(arguments, line);
    }
    throw Mistake(
        text("'", words[0], "' is no command; the commands are info, generate, tokenize, bench and bandwidth"));
}

} // namespace
} // namespace ml

int main(int argc, char **argv) {
    struct sigaction action{};
    action.sa_handler = ml::on_interrupt;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, nullptr);
    const auto fail = [](int code, const std::string &message) {
        std::fprintf(stderr, "mobileloop-engine: %s.\n", ml::printable(message).c_str());
        return code;
    };
    try {
        const int code = ml::run({argv + std::min(argc, 1), argv + argc});
        return code == ml::kInterrupted ? fail(code, "interrupted") : code;
    } catch (const ml::OutputFailure &) {
        return fail(1, std::string("the output cannot be written: ") + std::strerror(errno));
    } catch (const std::bad_alloc &) {
        return fail(1, "this machine ran out of memory; use a smaller model");
    } catch (const std::exception &error) {
        return fail(2, error.what());
    }
}
