import math

import pytest
import torch

from physics.sequences import (
    BRAIN_SEQUENCES,
    BRAIN_TISSUES,
    BalancedSSFP,
    InversionRecovery,
    SpinEcho,
    SpoiledGradientEcho,
)

T1, T2, DENSITY = 830.0, 75.0, 0.7


def rotate(state, degrees):
    """Rotate magnetization (x, y, z) about x."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y, z = state
    return x, c * y + s * z, -s * y + c * z


def relax(state, time, steps=200):
    """Integrate the Bloch equations without excitation by many small Runge-Kutta steps."""
    dt = time / steps
    k1, k2 = dt / T1, dt / T2
    x, y, z = state
    for _ in range(steps):
        x *= 1 - k2 + k2**2 / 2 - k2**3 / 6 + k2**4 / 24
        y *= 1 - k2 + k2**2 / 2 - k2**3 / 6 + k2**4 / 24
        z += (1 - z) * (k1 - k1**2 / 2 + k1**3 / 6 - k1**4 / 24)
    return x, y, z


def spoil(state):
    return 0.0, 0.0, state[2]


def repeat(repetition, times=60):
    """The signal of the last of many repetitions, each a function state -> (signal, state)."""
    state, signal = (0.0, 0.0, 1.0), 0.0
    for _ in range(times):
        signal, state = repetition(state)
    return DENSITY * signal


def spin_echo(state, repetition_time, echo_time):
    state = relax(rotate(spoil(state), 90), echo_time / 2)
    # a 180 about the axis of the excited magnetization refocuses: y stays, z turns round
    state = relax((state[0], state[1], -state[2]), echo_time / 2)
    return state[1], spoil(relax(state, repetition_time - echo_time))


def analytic(sequence):
    return sequence.signal(torch.tensor(T1), torch.tensor(T2), torch.tensor(DENSITY)).item()


def brain_signals(name):
    t1, t2, density = (
        torch.tensor([getattr(tissue, key) for tissue in BRAIN_TISSUES])
        for key in ("t1", "t2", "proton_density")
    )
    signals = BRAIN_SEQUENCES[name].signal(t1, t2, density).tolist()
    return dict(zip([tissue.name for tissue in BRAIN_TISSUES], signals, strict=True))


@pytest.mark.parametrize(("repetition_time", "echo_time"), [(500.0, 20.0), (3000.0, 120.0)])
def test_spin_echo_signal_is_the_steady_state_of_the_bloch_equations(repetition_time, echo_time):
    simulated = repeat(lambda state: spin_echo(state, repetition_time, echo_time))
    assert analytic(SpinEcho(repetition_time, echo_time)) == pytest.approx(simulated, rel=1e-4)


@pytest.mark.parametrize("flip_angle", [5.0, 30.0, 110.0])
def test_gradient_echo_signal_is_the_steady_state_of_the_bloch_equations(flip_angle):
    def repetition(state):
        echo = relax(rotate(spoil(state), flip_angle), 6.0)
        return echo[1], relax(echo, 94.0)

    sequence = SpoiledGradientEcho(repetition_time=100.0, echo_time=6.0, flip_angle=flip_angle)
    assert analytic(sequence) == pytest.approx(repeat(repetition), rel=1e-4)


@pytest.mark.parametrize("inversion_time", [150.0, 900.0])
def test_inversion_recovery_signal_is_the_steady_state_of_the_bloch_equations(inversion_time):
    def repetition(state):
        state = spoil(relax(rotate(spoil(state), 180), inversion_time))
        return spin_echo(state, 2000.0 - inversion_time, 60.0)

    sequence = InversionRecovery(2000.0, 60.0, inversion_time)
    assert analytic(sequence) == pytest.approx(repeat(repetition), rel=1e-4)


def test_t2_weighting_orders_csf_over_gray_over_white():
    signal = brain_signals("T2w")
    assert signal["csf"] > 1.5 * signal["gray"]
    assert signal["gray"] > 1.2 * signal["white"]


def test_t1_weighting_orders_fat_over_white_over_gray_over_csf():
    signal = brain_signals("T1w")
    assert signal["fat"] > signal["white"] > 1.15 * signal["gray"] > 1.5 * signal["csf"] > 0


def test_proton_density_weighting_shows_gray_over_white():
    signal = brain_signals("PDw")
    assert signal["gray"] > 1.05 * signal["white"]


def test_flair_suppresses_csf_and_keeps_gray_over_white():
    signal = brain_signals("FLAIR")
    assert abs(signal["csf"]) < 0.25 * signal["white"]
    assert signal["gray"] > signal["white"]


def test_air_gives_no_signal_and_bone_almost_none_at_an_echo():
    for name in BRAIN_SEQUENCES:
        assert brain_signals(name)["air"] == 0
    assert brain_signals("T2w")["bone"] < 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpinEcho(100.0, 100.0), "echo time of 100.0 ms in 100.0 ms"),
        (lambda: SpinEcho(100.0, -1.0), "must not be negative"),
        (lambda: SpoiledGradientEcho(10.0, 2.0, 0.0), "between 0 and 180 degrees, got 0.0"),
        (lambda: SpoiledGradientEcho(10.0, 2.0, 180.0), "got 180.0"),
        (lambda: BalancedSSFP(3.0, 3.0, 60.0), "echo time of 3.0 ms in 3.0 ms"),
        (lambda: BalancedSSFP(3.0, 1.5, 180.0), "between 0 and 180 degrees, got 180.0"),
        (lambda: InversionRecovery(1000.0, 50.0, 0.0), "above 0 ms, got 0.0"),
        (lambda: InversionRecovery(1000.0, 150.0, 900.0), "150.0 ms in 100.0 ms"),
        (lambda: SpinEcho(math.nan, 10.0), "nan"),
    ],
)
def test_parameters_that_no_scanner_can_play_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("echo_time", [0.0, 2.0, 3.0])
@pytest.mark.parametrize("flip_angle", [20.0, 60.0, 120.0])
def test_balanced_ssfp_signal_is_the_steady_state_of_the_bloch_equations(flip_angle, echo_time):
    def repetition(state):
        # Pulses of alternating sign: in a frame that turns half round, all are the same.
        echo = relax(rotate((-state[0], -state[1], state[2]), flip_angle), echo_time, steps=1)
        return echo[1], relax(echo, 4.0 - echo_time, steps=1)

    sequence = BalancedSSFP(4.0, echo_time, flip_angle)
    assert analytic(sequence) == pytest.approx(repeat(repetition, times=3000), rel=1e-4)


def test_balanced_ssfp_shows_blood_at_the_published_formula():
    t1, t2, flip = 1440.0, 250.0, math.radians(60.0)
    e1, e2 = math.exp(-3.2 / t1), math.exp(-3.2 / t2)
    expected = math.sin(flip) * math.sqrt(e2) * (1 - e1)
    expected /= 1 - (e1 - e2) * math.cos(flip) - e1 * e2
    signal = BalancedSSFP(3.2, 1.6, 60.0).signal(*map(torch.tensor, (t1, t2, 1.0)))
    assert signal.item() == pytest.approx(expected, rel=1e-4)
