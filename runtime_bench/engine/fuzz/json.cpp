// A JSON text: read, then walked through.
#include <cmath>

#include "error.h"
#include "format/json.h"
#include "targets.h"

namespace {

size_t walk(const ml::Json &json) {
    size_t count = 1;
    switch (json.kind()) {
    case ml::Json::Kind::array:
        for (const ml::Json &item : json.array("a list")) count += walk(item);
        break;
    case ml::Json::Kind::object:
        for (const auto &[key, item] : json.object("an object")) {
            fuzz::must(json.has(key) && &json.at(key) == &item, "a key that cannot be found again");
            count += walk(item);
        }
        break;
    case ml::Json::Kind::number: fuzz::must(std::isfinite(json.number("a number")), "a number that is none"); break;
    case ml::Json::Kind::string: count += json.string("a string").size(); break;
    default: break;
    }
    return count;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try {
        const ml::Json json = ml::Json::parse({reinterpret_cast<const char *>(data), size});
        fuzz::must(walk(json) <= 2 * size + 1, "more values than text");
    } catch (const ml::Error &) {
    }
    return 0;
}
