"""The last minutes of traffic, as charts begin with them."""

from appliance.api.past import SECONDS, Past
from appliance.dataplane.base import Counters, Traffic
from appliance.packet.action import Reason


def counters(packets: int, dropped: int = 0, name: str = "web") -> Counters:
    """Half of the packets for each of two VIPs."""
    half = Traffic(packets // 2, packets * 50, packets // 10)
    reasons = {str(Reason.NO_MEMBER): dropped, str(Reason.NOT_VIP): packets}
    return Counters({(name, "198.51.100.7"): half, (name, "2001:db8::7"): half}, reasons=reasons)


def test_rates_of_all_vips_by_second() -> None:
    """Nothing is known of the first second; then what has grown, over the time that has passed."""
    past = Past()
    for second, packets in enumerate((0, 100, 100, 400)):
        past.add(1000.0 + second, 50.0 + second, counters(packets, dropped=packets), 7 + second)
    found = past.document("web", flows_visible=True)
    assert found["times"] == [1000.0, 1001.0, 1002.0, 1003.0]
    assert found["packets_per_s"] == [None, 100.0, 0.0, 300.0]
    assert found["bytes_per_s"] == [None, 10000.0, 0.0, 30000.0]
    assert found["new_flows_per_s"] == [None, 20.0, 0.0, 60.0]
    assert found["pins"] == [7, 8, 9, 10]
    assert found["drops"] == {Reason.NO_MEMBER: [None, 100.0, 0.0, 300.0]}
    assert past.document("web", flows_visible=False)["new_flows_per_s"] == [None] * 4


def test_it_is_bounded() -> None:
    """Of all that has come, the last five minutes, in order; and nothing of virtual services that are gone."""
    past = Past()
    for second in range(SECONDS + 20):
        past.add(float(second), float(second), counters(10 * second), 0)
    found = past.document("web", flows_visible=True)
    assert found["times"] == [float(second) for second in range(20, SECONDS + 20)]
    assert found["packets_per_s"] == [10.0] * SECONDS
    for second in range(2):
        past.add(1000.0 + second, 1000.0 + second, counters(0, name="other"), 0)
    assert past.document("web", flows_visible=True)["packets_per_s"] == [None] * SECONDS


def test_what_is_not_known_is_no_number() -> None:
    """A data plane that is silent, counters that begin anew, and a virtual service that nobody has heard of."""
    past = Past()
    assert past.document("web", flows_visible=True)["times"] == []
    for second, now in enumerate((counters(100), None, counters(200), counters(40), counters(60))):
        past.add(float(second), float(second), now, 0)
    assert past.document("web", flows_visible=True)["packets_per_s"] == [None, None, None, None, 20.0]
    assert past.document("nobody", flows_visible=True)["bytes_per_s"] == [None] * 5
