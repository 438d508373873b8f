#include "apps/launch/team.h"

namespace vvtq::apps {

Team::Team(Job* job, engine::Device device, double timeout) {
    if (job == nullptr) return;
    const Place& place = job->place();
    processes_.rank = place.rank;
    processes_.size = place.size;
    processes_.exchange = [job](const std::string& own) { return job->exchange(own); };
    processes_.progress = [job](bool patient) { job->progress(patient); };
    processes_.waiting = [job](bool on) { job->waiting(on); };
    communicator_ = engine::make_communicator(
        device, {place.rank, place.size, processes_.exchange, timeout, job->address()});
    processes_.communicator = communicator_.get();
}

}  // namespace vvtq::apps
