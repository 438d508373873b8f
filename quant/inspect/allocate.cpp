#include "quant/inspect/allocate.h"

#include <algorithm>
#include <cmath>

#include "engine/check.h"

namespace vvtq::quant {

namespace {
constexpr int kMostBits = 8;
}

double expected_loss(const BitLoss& loss, int bits) {
    return loss.as_float + std::max(0.0, loss.two_bit - loss.as_float) * std::pow(4.0, 2 - bits);
}

std::map<std::string, int> allocate_bits(
    const std::vector<BitLoss>& losses, std::map<std::string, int> widths, double budget,
    const std::function<double(const std::map<std::string, int>&)>& cost) {
    double spent = cost(widths);
    for (;;) {
        const BitLoss* best = nullptr;
        double best_gain = 0, best_price = 0;
        for (const BitLoss& loss : losses) {
            int& bits = widths.at(loss.path);
            if (bits >= kMostBits) continue;
            const double gain = expected_loss(loss, bits) - expected_loss(loss, bits + 1);
            if (gain <= 0) continue;
            ++bits;
            const double price = cost(widths) - spent;
            --bits;
            VVTQ_CHECK(price >= 0, "a bit more of ", loss.path, " costs less");
            const bool fits = spent + price <= budget;
            // gain / price > best_gain / best_price, and a price of 0 is the best one
            if (fits && (best == nullptr || gain * best_price > best_gain * price)) {
                best = &loss;
                best_gain = gain;
                best_price = price;
            }
        }
        if (best == nullptr) return widths;
        ++widths.at(best->path);
        spent += best_price;
    }
}

}  // namespace vvtq::quant
