/* A plugin for QEMU's user-mode emulator that counts what a program says it wants counted (marks.h): instructions,
 * bytes read and written, and misses of simulated caches, by kind of memory (weights, KV, everything else).
 *
 *   cc -O2 -shared -fPIC counting_plugin.c -o counting.so -pthread
 *   qemu-aarch64 -plugin counting.so,out=FILE,l1=SIZE:WAYS,l2=SIZE:WAYS:CORES,ll=SIZE:WAYS PROGRAM
 *
 * Every emulated thread is a core with an L1 data cache of its own; CORES cores share an L2, all share the last level;
 * ll=0 leaves that level out. Lines are 64 bytes, replacement is least recently used, a store brings its line in like a
 * load, and a line is put into every level it was missed in. There is no prefetcher, no write-back traffic, no
 * coherence, no instruction cache, and addresses are virtual: a phone differs in all of that.
 *
 * The few functions of QEMU's plugin interface that are used are declared here, so that nothing but the emulator needs
 * to be installed. Version 1 is spoken by QEMU 6.2 to 8.2, version 2 by QEMU 9 on (-DML_PLUGIN_VERSION=2). */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ML_PLUGIN_VERSION
#define ML_PLUGIN_VERSION 1
#endif
#define ML_EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };

typedef void (*translated_fn)(plugin_id id, struct qemu_plugin_tb *tb);
typedef void (*executed_fn)(unsigned cpu, void *data);
typedef void (*accessed_fn)(unsigned cpu, uint32_t info, uint64_t address, void *data);
typedef void (*syscall_fn)(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                           uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, translated_fn fn);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, executed_fn fn, int flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, accessed_fn fn, int flags, int rw, void *data);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, syscall_fn fn);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
unsigned qemu_plugin_mem_size_shift(uint32_t info);

ML_EXPORT int qemu_plugin_version = ML_PLUGIN_VERSION;

enum { LINE_SHIFT = 6, MAX_CORES = 64, MAX_REGIONS = 256, KINDS = 3, MARK_NUMBER = 0x6D6C };
enum { MARK_REGION = 1, MARK_WARM = 2, MARK_COUNT = 3, MARK_REPORT = 4 };
static const char *const kind_names[KINDS] = {"other", "weights", "kv"};

struct cache {
    uint64_t sets, ways;
    uint64_t *lines; /* [sets][ways] line number + 1, the last used first; 0 is empty */
};

struct geometry {
    uint64_t bytes, ways, cores; /* bytes 0: there is no such level */
};

/* What one core counts; cores do not share cache lines of the host. */
struct counts {
    uint64_t instructions;
    uint64_t bytes[KINDS], l1[KINDS], l2[KINDS], last[KINDS];
} __attribute__((aligned(128)));

static struct geometry l1_shape = {65536, 4, 1}, l2_shape = {0, 8, 1}, last_shape = {0, 16, MAX_CORES};
static struct cache l1[MAX_CORES], l2[MAX_CORES], last;
static struct counts counts[MAX_CORES];
static struct region {
    uint64_t begin, end;
    int kind;
} regions[MAX_REGIONS];
static int num_regions;
static volatile int state; /* 0, MARK_WARM or MARK_COUNT */
static pthread_mutex_t shared = PTHREAD_MUTEX_INITIALIZER;
static FILE *out;

static void make_cache(struct cache *cache, const struct geometry *shape) {
    cache->ways = shape->ways;
    cache->sets = shape->bytes >> LINE_SHIFT;
    cache->sets /= shape->ways;
    cache->lines = calloc(cache->sets * cache->ways, sizeof *cache->lines);
    if (!cache->lines) {
        fprintf(stderr, "counting_plugin: a cache of %" PRIu64 " bytes cannot be allocated\n", shape->bytes);
        exit(2);
    }
}

/* Whether the line was there; afterwards it is, as the last used. */
static bool touch(struct cache *cache, uint64_t line) {
    uint64_t *set = cache->lines + line % cache->sets * cache->ways;
    uint64_t carried = line + 1;
    for (uint64_t way = 0; way < cache->ways; way++) {
        const uint64_t here = set[way];
        set[way] = carried;
        if (here == line + 1) return true;
        carried = here;
    }
    return false;
}

static int kind_of(uint64_t address) {
    for (int i = 0; i < num_regions; i++)
        if (address >= regions[i].begin && address < regions[i].end) return regions[i].kind;
    return 0;
}

static void accessed(unsigned cpu, uint32_t info, uint64_t address, void *data) {
    (void)data;
    if (!state) return;
    const unsigned core = cpu % MAX_CORES;
    const uint64_t bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
    const bool counting = state == MARK_COUNT;
    struct counts *own = &counts[core];
    const int kind = kind_of(address);
    if (counting) own->bytes[kind] += bytes;
    for (uint64_t line = address >> LINE_SHIFT; line <= (address + bytes - 1) >> LINE_SHIFT; line++) {
        if (touch(&l1[core], line)) continue;
        own->l1[kind] += counting;
        pthread_mutex_lock(&shared);
        const bool in_l2 = l2_shape.bytes && touch(&l2[core / l2_shape.cores], line);
        own->l2[kind] += counting && !in_l2;
        if (!in_l2 && last_shape.bytes && !touch(&last, line)) own->last[kind] += counting;
        pthread_mutex_unlock(&shared);
    }
}

static void executed(unsigned cpu, void *data) {
    if (state == MARK_COUNT) counts[cpu % MAX_CORES].instructions += (uintptr_t)data;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
    (void)id;
    const size_t size = qemu_plugin_tb_n_insns(tb);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, NO_REGISTERS, (void *)(uintptr_t)size);
    for (size_t i = 0; i < size; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), accessed, NO_REGISTERS, READS_AND_WRITES,
                                         NULL);
}

static void print_kinds(const char *name, const uint64_t *values) {
    fprintf(out, ",\"%s\":{", name);
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(out, "%s\"%s\":%" PRIu64, kind ? "," : "", kind_names[kind], values[kind]);
    fputs("}", out);
}

static void report(void) {
    struct counts all;
    memset(&all, 0, sizeof all);
    fputs("{\"instructions_by_core\":[", out);
    for (int core = 0, first = 1; core < MAX_CORES; core++) {
        if (!counts[core].instructions) continue;
        fprintf(out, "%s%" PRIu64, first ? "" : ",", counts[core].instructions);
        first = 0;
        for (int kind = 0; kind < KINDS; kind++) {
            all.bytes[kind] += counts[core].bytes[kind];
            all.l1[kind] += counts[core].l1[kind];
            all.l2[kind] += counts[core].l2[kind];
            all.last[kind] += counts[core].last[kind];
        }
    }
    fputs("]", out);
    print_kinds("bytes", all.bytes);
    print_kinds("l1_misses", all.l1);
    if (l2_shape.bytes) print_kinds("l2_misses", all.l2);
    if (last_shape.bytes) print_kinds("last_misses", all.last);
    fputs("}\n", out);
    fflush(out);
    memset(counts, 0, sizeof counts);
}

/* Marks come from one thread, while the others wait for work. */
static void on_syscall(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                       uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARK_NUMBER) return;
    if (a1 == MARK_REGION && a2 > 0 && a2 < KINDS && num_regions < MAX_REGIONS) {
        regions[num_regions++] = (struct region){a3, a3 + a4, (int)a2};
    } else if (a1 == MARK_WARM || a1 == MARK_COUNT) {
        state = (int)a1;
    } else if (a1 == MARK_REPORT) {
        state = 0;
        report();
    } else {
        fprintf(stderr, "counting_plugin: mark %" PRIu64 " of kind %" PRIu64 " is not known\n", a1, a2);
        exit(2);
    }
}

/* "SIZE:WAYS" or "SIZE:WAYS:CORES"; SIZE 0 leaves the level out. */
static bool parse_shape(const char *text, struct geometry *shape) {
    struct geometry parsed = *shape;
    const int fields = sscanf(text, "%" SCNu64 ":%" SCNu64 ":%" SCNu64, &parsed.bytes, &parsed.ways, &parsed.cores);
    if (fields < 1 ||
        (parsed.bytes && (fields < 2 || !parsed.ways || !parsed.cores || parsed.bytes < parsed.ways << LINE_SHIFT)))
        return false;
    *shape = parsed;
    return true;
}

ML_EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        const bool known = value && ((!strncmp(argv[i], "out=", 4) && (out = fopen(value + 1, "w"))) ||
                                     (!strncmp(argv[i], "l1=", 3) && parse_shape(value + 1, &l1_shape)) ||
                                     (!strncmp(argv[i], "l2=", 3) && parse_shape(value + 1, &l2_shape)) ||
                                     (!strncmp(argv[i], "ll=", 3) && parse_shape(value + 1, &last_shape)));
        if (!known) {
            fprintf(stderr, "counting_plugin: '%s' is not out=FILE, l1=, l2= or ll=SIZE:WAYS[:CORES]\n", argv[i]);
            return -1;
        }
    }
    if (!out || !l1_shape.bytes) {
        fprintf(stderr, "counting_plugin: out=FILE and an L1 are needed\n");
        return -1;
    }
    for (int core = 0; core < MAX_CORES; core++) make_cache(&l1[core], &l1_shape);
    if (l2_shape.bytes)
        for (uint64_t core = 0; core <= (MAX_CORES - 1) / l2_shape.cores; core++) make_cache(&l2[core], &l2_shape);
    if (last_shape.bytes) make_cache(&last, &last_shape);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
