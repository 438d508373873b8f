// Why a job failed: the part of the server that decides it.
#include <algorithm>
#include <cmath>

#include "apps/launch/server.h"

namespace vvtq::apps {

using engine::concat;

namespace {

// Seconds in which a lost connection counts as the reason, if a process says that it failed: a collective
// operation of an innocent process fails too, and may be faster.
constexpr double kSecondThought = 0.5;

std::string seconds(double time) { return concat(std::lround(time), " s"); }

}  // namespace

void Server::check() {
    if (now_ - last_alive_ >= terms_.interval()) {
        last_alive_ = now_;
        send_all({{"kind", "alive"}});
    }
    if (!complete_ && now_ - start_ > terms_.timeout) return end_job(absent(), 1);
    for (const auto& member : members_) {
        if (!member || member->left || now_ - member->heard <= terms_.silence()) continue;
        return end_job(concat(member->name(), ": has not answered for ", seconds(now_ - member->heard)), 1);
    }
    if (failed_ != nullptr) {
        const bool by_all = std::all_of(members_.begin(), members_.end(), [&](const MemberPointer& member) {
            return member && member->failure == failed_->failure;
        });
        if (by_all || now_ - failed_at_ > std::min(kSecondThought, terms_.timeout / 8))
            return end_by(*failed_, by_all);
    }
    check_progress();
}

/// Where one process is stuck, the others wait for it in a collective operation. So the one to blame is one
/// that does not wait, and of these the one that is furthest behind.
void Server::check_progress() {
    const Member* blamed = nullptr;
    bool limit_passed = false, like_others = false;
    for (const auto& member : members_) {
        if (!member || member->left) continue;
        if (!member->started || member->patient) return;
        if (member->exchanging) continue;
        limit_passed = limit_passed || now_ - member->progressed > terms_.patience();
        const auto place = [](const Member& of) { return std::pair(of.waiting, of.count); };
        if (blamed == nullptr || place(*member) < place(*blamed)) {
            blamed = member.get();
            like_others = false;
        } else if (place(*member) == place(*blamed)) {
            if (member->progressed < blamed->progressed) blamed = member.get();
            like_others = true;
        }
    }
    if (!limit_passed || now_ - blamed->progressed <= terms_.patience()) return;
    end_job(concat(blamed->name(), ": has made no progress for ", seconds(now_ - blamed->progressed),
                   like_others ? "; the others are no further" : ""),
            1);
}

void Server::lost(const Member& member) {
    if (member.failure) return end_by(member, false);
    end_job(concat(member.name(), ": connection lost: the process died or its machine is unreachable"), 1);
}

void Server::end_by(const Member& member, bool by_all) {
    end_job((by_all ? "" : member.name() + ": ") + text_of(*member.failure, "reason"),
            member.failure->at("status").get<int>());
}

/// "ranks 2, 5-7 of 8 did not come ..."
std::string Server::absent() const {
    std::string ranks;
    int count = 0;
    for (int rank = 0; rank < terms_.size; ++rank) {
        const auto there = [&](int r) {
            return r >= terms_.size || members_[static_cast<size_t>(r)] != nullptr;
        };
        if (there(rank)) continue;
        const int first = rank;
        while (!there(rank + 1)) ++rank;
        count += rank - first + 1;
        ranks += concat(ranks.empty() ? "" : ", ", first);
        if (rank > first) ranks += concat("-", rank);
    }
    return concat(count == 1 ? "rank " : "ranks ", ranks, " of ", terms_.size, " did not come to ",
                  terms_.url, " within ", seconds(terms_.timeout), ": start ", count == 1 ? "it" : "them",
                  " too, or see why this address cannot be reached from there");
}

void Server::end_job(const std::string& text, int status) {
    if (end_.is_null()) end_ = {{"kind", "end"}, {"text", text}, {"status", status}};
}

}  // namespace vvtq::apps
