#include "apps/launch/team.h"

#include <exception>

#include "apps/launch/agreement.h"

namespace vvtq::apps {

Team::Team(Job* job, engine::Device device, double timeout) {
    if (job == nullptr) return;
    const Place& place = job->place();
    processes_.rank = place.rank;
    processes_.size = place.size;
    processes_.exchange = [job](const std::string& own) { return job->exchange(own); };
    processes_.progress = [job](bool patient) { job->progress(patient); };
    processes_.waiting = [job](bool on) { job->waiting(on); };
    require_agreement(processes_, {{"--device", engine::name_of(device)}});
    communicator_ = engine::make_communicator(
        device, {place.rank, place.size, processes_.exchange, timeout, job->address()});
    processes_.communicator = communicator_.get();
}

Team::~Team() {
    if (std::uncaught_exceptions() > 0) static_cast<void>(communicator_.release());
}

}  // namespace vvtq::apps
