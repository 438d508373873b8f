// normal: the normal distribution, for GELU.
#pragma once

namespace vvtq::engine::cuda {

/// Distribution function Phi(x) and density phi(x).
struct Normal {
    float cdf, pdf;
};

/// Absolute error of the distribution function about 1e-7; its lower tail is good to relative 1e-5.
__device__ inline Normal normal_of(float x) {
    const float z = fabsf(x) * 0.707106781f;
    const float gauss = expf(-z * z);
    const float t = __fdividef(1.0f, 1.0f + 0.4f * z);
    // erfc(z) e^(z^2) = t P(t), weighted least-squares fit for z in [0, 6], error 3e-9 of erfc
    float p = 0.0798577873f;
    p = p * t + -0.421134194f;
    p = p * t + 0.737813304f;
    p = p * t + -0.432400702f;
    p = p * t + 0.446257536f;
    p = p * t + 0.125620874f;
    p = p * t + 0.23927094f;
    p = p * t + 0.224714456f;
    const float tail = 0.5f * gauss * t * p;
    return {x > 0.0f ? 1.0f - tail : tail, 0.398942280f * gauss};
}

}  // namespace vvtq::engine::cuda
