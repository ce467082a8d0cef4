from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from drayman.server.registry import latest
from drayman.server.registry.latest import Candidate

START = datetime(2026, 1, 1, tzinfo=UTC)
CANDIDATE = st.builds(
    Candidate,
    name=st.sampled_from("abcd"),
    upload_finish=st.builds(
        lambda halves, hours: (START + timedelta(seconds=halves / 2)).astimezone(timezone(timedelta(hours=hours))),
        st.integers(0, 6),
        st.integers(-2, 2),
    ),
)


@given(st.none() | CANDIDATE, CANDIDATE)
def test_an_upload_is_the_latest_unless_it_is_on_probation(current: Candidate | None, uploaded: Candidate) -> None:
    assert latest.after_upload(current, uploaded, on_probation=False) is uploaded
    assert latest.after_upload(current, uploaded, on_probation=True) is current


@given(st.none() | CANDIDATE, CANDIDATE)
def test_an_approved_version_is_the_latest_if_it_was_uploaded_in_a_later_second(
    current: Candidate | None, approved: Candidate
) -> None:
    later = current is None or approved.upload_finish.timestamp() // 1 > current.upload_finish.timestamp() // 1
    assert latest.after_approval(current, approved) is (approved if later else current)


@given(st.lists(CANDIDATE, unique_by=lambda candidate: candidate.name, max_size=4))
def test_the_latest_was_uploaded_last_and_is_the_first_of_its_second(candidates: list[Candidate]) -> None:
    ordered = sorted(candidates, key=lambda one: (-(one.upload_finish.timestamp() // 1), one.name))
    assert latest.recomputed(candidates) is (ordered[0] if ordered else None)
    assert latest.recomputed(reversed(candidates)) is (ordered[0] if ordered else None)


def test_three_uploads_in_one_second() -> None:
    at = [START + timedelta(milliseconds=number) for number in (1, 2, 3)]
    b, a, c = (Candidate(name, when) for name, when in zip("bac", at, strict=True))
    assert latest.after_upload(a, c, on_probation=False) is c
    assert latest.recomputed([b, a, c]) is a
