// Which cpus the threads of a pool run on. Linux and Android; elsewhere threads run wherever the system puts them.
#pragma once

#include <array>
#include <climits>

#include "threads/threads.h"
#include "threads/topology.h"

namespace ml {

// The cpus a thread may run on, as the kernel keeps them: all of them, those behind kMaxCpus too.
struct CpuMask {
    static constexpr size_t kBits = sizeof(unsigned long) * CHAR_BIT;
    std::array<unsigned long, 8192 / kBits> words{};

    static CpuMask of(const Cpus &cpus);
    Cpus cpus() const;
    // Of the calling thread; both are false where the system does not do it.
    bool read();
    bool apply() const;
};

// Of the calling thread; empty where the system does not tell.
Cpus allowed_cpus();

// The cpus that the calling thread may run on, without their caches. Kept until they change.
Topology machine_topology();

// One thread per big core, as far as a quota of cpu time pays for them, at least 1.
uint32_t default_threads();

// Where the threads of one pool run. The workers are moved once; thread 0 is the caller's, and is moved for the length
// of a call only (Placed), so that it never has to be found again to get its affinity back.
class Placement {
public:
    // Where a machine has big and other cores and the pool has no more threads than there are big ones, its threads
    // keep to those. Else nothing is moved: more threads would wait for each other on too few cores.
    Placement(ThreadPool &pool, const Topology &topology);

    // As many cpus as threads: thread i on the i-th; else every thread on any of them; none: as it was made. Throws
    // where a cpu is listed twice, does not exist or is not allowed; the threads are then where they were.
    void place(const uint32_t *cpus, uint32_t count);

    // In the order of the threads where each has its own; empty where nothing was moved.
    const Cpus &cpus() const { return now_.cpus; }

private:
    friend class Placed;
    struct Where {
        Cpus cpus;         // none: those of the thread that made the pool
        bool each = false; // thread i on the i-th alone
    };
    bool move(const Where &where);
    bool try_to(const Where &where);
    CpuMask mask_of(const Where &where, uint32_t thread) const;

    ThreadPool &pool_;
    CpuMask maker_{}; // of the thread that made the pool
    bool movable_;    // whether the system tells affinities
    Where own_, now_; // as it was made, and as it is
    CpuMask first_{}; // of thread 0, where now_ holds any cpus
};

// Thread 0 where its pool's placement wants it, for the length of a call. Where the system no longer allows that, the
// call runs wherever it is.
class Placed {
public:
    explicit Placed(const Placement &placement)
        : moved_(!placement.now_.cpus.empty() && before_.read() && placement.first_.apply()) {}
    ~Placed() {
        if (moved_) before_.apply();
    }
    Placed(const Placed &) = delete;
    Placed &operator=(const Placed &) = delete;

private:
    CpuMask before_{};
    const bool moved_;
};

} // namespace ml
