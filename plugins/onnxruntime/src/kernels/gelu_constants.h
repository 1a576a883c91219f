// Numbers of the GELU that all kernels share.
#pragma once

namespace mpq {

// 2 * sqrt(2 / pi), and that times 0.044715: what the sigmoid of the approximation takes is
// x * (kGeluGate + kGeluGateOfCube * x^2).
constexpr float kGeluGate = 1.59576912f, kGeluGateOfCube = 0.0713548163f;

// From here on |gelu(x) - max(x, 0)| is below 2e-38, and 0.
constexpr float kGeluEnd = 13.125f;

// erfc(t / sqrt(2)) / 2 * exp(t^2 / 2), a Mills' ratio, as a quotient of polynomials in t, to 3e-8
// of it for 0 <= t <= kGeluEnd: coefficients of the numerator and of the denominator from the
// highest power on, the latter without its last one, 1. All are positive, so nothing cancels.
constexpr int kMillsTerms = 5;
constexpr float kMills[2][kMillsTerms] = {
    {0.00401165755f, 0.0399262905f, 0.181134313f, 0.435452193f, 0.5f},
    {0.0100555886f, 0.100087836f, 0.463925213f, 1.19376576f, 1.66878927f}};

}  // namespace mpq
