// The commands; each returns an exit code.
#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "options.h"

namespace ml {

constexpr int kInterrupted = 130; // what a shell reports for Ctrl-C

// Set by Ctrl-C; a second Ctrl-C ends the process at once.
extern volatile std::sig_atomic_t stop_requested;

extern const CommandText kInfo, kGenerate, kTokenize, kBench, kBandwidth;
int run_info(const Arguments &arguments);
int run_generate(const Arguments &arguments);
int run_tokenize(const Arguments &arguments);
int run_bench(const Arguments &arguments, const std::string &command);
int run_bandwidth(const Arguments &arguments);

// Write to the standard output; throws OutputFailure where it cannot be written.
struct OutputFailure {};
void print(const std::string &text);

double milliseconds_now();
double median(std::vector<double> values);
// 1234.5678 with `digits` places behind the point.
std::string fixed(double value, int digits);
// "1 thread", "2 threads".
std::string counted(uint64_t count, const char *what);

} // namespace ml
