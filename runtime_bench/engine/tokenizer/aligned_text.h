// A text that remembers where its characters come from, as the `tokenizers` library's normalized strings do: one of
// its pre-tokenizers asks whether a piece begins the text.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace ml {

// A tokenizer is untrusted, and its rules may make long texts out of short ones, again and again. Throws ml::Error
// where a text is about to have so many bytes.
void check_length(size_t bytes);

class AlignedText {
public:
    // One character of a changed text: it stands for a character of the text before where `count` is 0, for 1 - count
    // of them below that, and is put in above.
    struct Change {
        uint32_t code;
        int64_t count;
    };

    explicit AlignedText(std::string text);

    const std::string &text() const { return text_; }
    bool empty() const { return text_.empty(); }
    // Where in the whole text this piece began when it was cut out.
    uint32_t begin() const { return begin_; }
    std::string take() && { return std::move(text_); }

    AlignedText slice(size_t from, size_t to) const;
    void prepend(const std::string &content);
    // Put `content` in place of each of these parts, which rise and do not overlap.
    void replace(const std::vector<std::pair<size_t, size_t>> &parts, const std::string &content);
    // Put these characters in place of all but the first `skipped` ones, which go.
    void transform(const std::vector<Change> &changes, size_t skipped = 0);
    // Leave out the characters that are not kept.
    template <typename Keep> void filter(const Keep &keep) {
        std::vector<Change> changes;
        size_t skipped = 0, removed = 0;
        for_each([&](uint32_t code) {
            if (!keep(code)) {
                removed++;
                return;
            }
            if (changes.empty()) {
                skipped = removed;
            } else {
                changes.back().count = -static_cast<int64_t>(removed);
            }
            changes.push_back({code, 0});
            removed = 0;
        });
        transform(changes, skipped);
    }
    template <typename Visit> void for_each(const Visit &visit) const;

private:
    AlignedText() = default;

    std::string text_;
    std::vector<uint32_t> starts_; // of each byte: where in the whole text its character began
    uint32_t begin_ = 0;
};

} // namespace ml

#include "format/utf8.h"

template <typename Visit> void ml::AlignedText::for_each(const Visit &visit) const {
    for (size_t at = 0; at < text_.size();) {
        const Character c = character_at(text_, at);
        visit(c.code);
        at += c.bytes;
    }
}
