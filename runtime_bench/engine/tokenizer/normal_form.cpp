#include "tokenizer/normal_form.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "tokenizer/normal_form_tables.h"

namespace ml {
namespace {

using Change = AlignedText::Change;

// Hangul syllables are composed by a rule: lead, vowel, tail.
constexpr uint32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28, kSyllableCount = 11172;

template <size_t count>
std::string_view looked_up(const uint32_t (&codes)[count], const uint16_t *begins, const char *texts, uint32_t code) {
    const uint32_t *found = std::lower_bound(codes, codes + count, code);
    if (found == codes + count || *found != code) return {};
    const auto at = static_cast<size_t>(found - codes);
    return {texts + begins[at], static_cast<size_t>(begins[at + 1] - begins[at])};
}

uint32_t order_of(uint32_t code) {
    const OrderRange *after =
        std::upper_bound(std::begin(kOrders), std::end(kOrders), code,
                         [](uint32_t value, const OrderRange &range) { return value < range.first; });
    return after != std::begin(kOrders) && code <= after[-1].last ? after[-1].order : 0;
}

void decompose(uint32_t code, bool compatible, std::vector<Change> &out) {
    if (code - kSyllables < kSyllableCount) {
        const uint32_t at = code - kSyllables, tail = at % kTailCount;
        out.push_back({kLeads + at / (kVowelCount * kTailCount), 0});
        out.push_back({kVowels + at / kTailCount % kVowelCount, 1});
        if (tail) out.push_back({kTails + tail, 1});
        return;
    }
    std::string_view parts;
    if (compatible) parts = looked_up(kCompatible, kCompatibleBegins, kCompatibleTexts, code);
    if (parts.empty()) parts = looked_up(kCanonical, kCanonicalBegins, kCanonicalTexts, code);
    if (parts.empty()) return out.push_back({code, 0});
    for (size_t at = 0; at < parts.size();) {
        const Character c = character_at(parts, at);
        out.push_back({c.code, at ? 1 : 0});
        at += c.bytes;
    }
}

// The character that two make, or 0.
uint32_t composed(uint32_t first, uint32_t second) {
    if (first - kLeads < kLeadCount && second - kVowels < kVowelCount)
        return kSyllables + ((first - kLeads) * kVowelCount + second - kVowels) * kTailCount;
    if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTailCount == 0 && second > kTails &&
        second < kTails + kTailCount)
        return first + second - kTails;
    const auto before = [](const Composition &pair, const std::pair<uint32_t, uint32_t> &wanted) {
        return std::tie(pair.first, pair.second) < std::tie(wanted.first, wanted.second);
    };
    const Composition *found =
        std::lower_bound(std::begin(kCompositions), std::end(kCompositions), std::pair(first, second), before);
    const bool same = found != std::end(kCompositions) && found->first == first && found->second == second;
    return same ? found->composed : 0;
}

// Marks behind their letter, by their order; equals keep theirs.
void reorder(std::vector<Change> &changes) {
    for (auto begin = changes.begin(); begin != changes.end();) {
        const auto is_mark = [](const Change &change) { return order_of(change.code) != 0; };
        const auto from = std::find_if(begin, changes.end(), is_mark);
        begin = std::find_if_not(from, changes.end(), is_mark);
        std::stable_sort(from, begin,
                         [](const Change &a, const Change &b) { return order_of(a.code) < order_of(b.code); });
    }
}

void compose(std::vector<Change> &changes) {
    size_t kept = 0, letter = SIZE_MAX;
    uint32_t last_order = 0;
    for (const Change change : changes) {
        const uint32_t order = order_of(change.code);
        // What stands between the letter and this one must be of a lower order, and not block it.
        const bool reaches = letter != SIZE_MAX && (kept == letter + 1 || (last_order && last_order < order));
        if (const uint32_t whole = reaches ? composed(changes[letter].code, change.code) : 0) {
            changes[letter] = {whole, changes[letter].count + change.count - 1};
            continue;
        }
        if (!order) letter = kept;
        last_order = order;
        changes[kept++] = change;
    }
    changes.resize(kept);
}

} // namespace

void to_normal_form(AlignedText &text, NormalForm form) {
    std::vector<Change> changes;
    text.for_each([&](uint32_t code) { decompose(code, form.compatible, changes); });
    reorder(changes);
    if (form.composed) compose(changes);
    text.transform(changes);
}

void to_lowercase(AlignedText &text) {
    std::vector<Change> changes;
    text.for_each([&](uint32_t code) {
        if (code == 0x130) {
            changes.insert(changes.end(), {{'i', 0}, {0x307, 1}});
            return;
        }
        const CaseRun *after = std::upper_bound(std::begin(kLowercase), std::end(kLowercase), code,
                                                [](uint32_t value, const CaseRun &run) { return value < run.first; });
        const bool changed =
            after != std::begin(kLowercase) && code <= after[-1].last && (code - after[-1].first) % after[-1].step == 0;
        changes.push_back({changed ? code + static_cast<uint32_t>(after[-1].distance) : code, 0});
    });
    text.transform(changes);
}

} // namespace ml
