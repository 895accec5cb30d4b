#include "tokenizer/aligned_text.h"

#include "error.h"

namespace ml {

void check_length(size_t bytes) {
    constexpr size_t kMost = size_t{1} << 24;
    require(bytes <= kMost, "the tokenizer makes a text of more than ", kMost >> 20, " MiB");
}

AlignedText::AlignedText(std::string text) : text_(std::move(text)) {
    starts_.reserve(text_.size());
    for (size_t at = 0; at < text_.size();) {
        const Character c = character_at(text_, at);
        starts_.insert(starts_.end(), c.bytes, static_cast<uint32_t>(at));
        at += c.bytes;
    }
}

AlignedText AlignedText::slice(size_t from, size_t to) const {
    AlignedText part;
    part.text_ = text_.substr(from, to - from);
    part.starts_.assign(starts_.begin() + static_cast<std::ptrdiff_t>(from),
                        starts_.begin() + static_cast<std::ptrdiff_t>(to));
    part.begin_ = part.starts_.empty() ? begin_ : part.starts_.front();
    return part;
}

void AlignedText::prepend(const std::string &content) {
    if (text_.empty()) return;
    check_length(text_.size() + content.size());
    text_.insert(0, content);
    starts_.insert(starts_.begin(), content.size(), starts_.front());
}

void AlignedText::replace(const std::vector<std::pair<size_t, size_t>> &parts, const std::string &content) {
    if (parts.empty()) return;
    check_length(text_.size() + parts.size() * content.size());
    std::string text;
    std::vector<uint32_t> starts;
    size_t from = 0;
    const auto keep = [&](size_t to) {
        text.append(text_, from, to - from);
        starts.insert(starts.end(), starts_.begin() + static_cast<std::ptrdiff_t>(from),
                      starts_.begin() + static_cast<std::ptrdiff_t>(to));
    };
    for (const auto &[begin, end] : parts) {
        keep(begin);
        text += content;
        starts.insert(starts.end(), content.size(), end ? starts_[end - 1] : begin_);
        from = end;
    }
    keep(text_.size());
    text_.swap(text);
    starts_.swap(starts);
}

void AlignedText::transform(const std::vector<Change> &changes, size_t skipped) {
    check_length(changes.size());
    std::string text;
    std::vector<uint32_t> starts;
    size_t at = 0;
    const auto pass = [&] {
        if (at < text_.size()) at += character_at(text_, at).bytes;
    };
    for (size_t i = 0; i < skipped; i++) pass();
    for (const auto &[code, count] : changes) {
        uint32_t start = begin_;
        if (count > 0) {
            if (at) start = starts_[at - 1];
        } else {
            if (at < starts_.size()) start = starts_[at];
            for (int64_t i = count; i <= 0; i++) pass();
        }
        append_utf8(text, code);
        starts.resize(text.size(), start);
    }
    text_.swap(text);
    starts_.swap(starts);
}

} // namespace ml
