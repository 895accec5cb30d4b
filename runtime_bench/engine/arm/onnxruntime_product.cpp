// ONNX Runtime's own product with 4-bit weights (MatMulNBits of a model file), between the same marks as ours:
//
//   onnxruntime_product MODEL COLS ROWS
//
// One thread; the second run is counted, the first one makes what is made once. The session's own work is counted too:
// it cancels out in the difference of two sizes.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "marks.h"
#include "onnxruntime_c_api.h"

using namespace ml;

namespace {

const OrtApi *api = nullptr;

void check(OrtStatus *status) {
    if (!status) return;
    std::fprintf(stderr, "onnxruntime_product: %s\n", api->GetErrorMessage(status));
    std::exit(2);
}

} // namespace

int main(int argc, char **argv) {
    const int64_t cols = argc == 4 ? std::atoll(argv[2]) : 0, rows = argc == 4 ? std::atoll(argv[3]) : 0;
    api = OrtGetApiBase()->GetApi(22);
    if (cols < 1 || rows < 1 || !api) {
        std::fprintf(stderr, "onnxruntime_product MODEL COLS ROWS, with ONNX Runtime 1.22 or newer\n");
        return 2;
    }
    OrtEnv *environment = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "counts", &environment));
    OrtSessionOptions *options = nullptr;
    check(api->CreateSessionOptions(&options));
    check(api->SetIntraOpNumThreads(options, 1));
    OrtSession *session = nullptr;
    check(api->CreateSession(environment, argv[1], options, &session));
    OrtMemoryInfo *memory = nullptr;
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    std::vector<float> x(static_cast<size_t>(cols)), y(static_cast<size_t>(rows));
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 31) / 16.0f - 1.0f;
    const int64_t x_shape[] = {1, cols}, y_shape[] = {1, rows};
    OrtValue *input = nullptr, *output = nullptr;
    check(api->CreateTensorWithDataAsOrtValue(memory, x.data(), x.size() * sizeof(float), x_shape, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
    check(api->CreateTensorWithDataAsOrtValue(memory, y.data(), y.size() * sizeof(float), y_shape, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &output));
    const char *const inputs[] = {"x"}, *const outputs[] = {"y"};
    const auto run = [&] { check(api->Run(session, nullptr, inputs, &input, 1, outputs, 1, &output)); };
    run();
    mark(Mark::warm);
    mark(Mark::count);
    run();
    mark(Mark::report);
    return 0;
}
