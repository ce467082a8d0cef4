import base64

from hypothesis import given
from hypothesis import strategies as st

from drayman.server.auth.nonces import Nonces

KEY = bytes(range(32))
NOW = st.floats(0, 4e9)
LIFETIME = st.floats(0.001, 1e6)


@given(NOW, LIFETIME, st.floats(0, 0.999))
def test_a_nonce_is_recognised_until_it_expires(now: float, lifetime: float, share: float) -> None:
    nonces = Nonces(KEY, lifetime)
    text, expires = nonces.new(now)
    assert abs(expires - (now + lifetime)) < 1e-4
    moment = now + share * (expires - now)
    if moment < expires:
        nonce = nonces.recognise(text, moment)
        assert nonce is not None
        assert nonce.expires == expires
        assert len(nonce.identity) == 16
    assert nonces.recognise(text, expires) is None


@given(st.integers(0, 55), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    nonces = Nonces(KEY, 60)
    raw = bytearray(base64.urlsafe_b64decode(nonces.new(1000)[0]))
    raw[place] ^= change
    assert nonces.recognise(base64.urlsafe_b64encode(raw).decode(), 1000) is None


@given(st.one_of(st.text(max_size=100), st.binary(max_size=80).map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_no_other_text_is_a_nonce(text: str) -> None:
    assert Nonces(KEY, 60).recognise(text, 0) is None


def test_another_key_does_not_recognise_it() -> None:
    text, _ = Nonces(KEY, 60).new(1000)
    assert Nonces(bytes(32), 60).recognise(text, 1000) is None
    assert Nonces(KEY, 5).recognise(text, 1000) is not None


def test_nonces_differ() -> None:
    nonces = Nonces(KEY, 60)
    made = [nonces.new(1000)[0] for _ in range(1000)]
    recognised = [nonces.recognise(text, 1000) for text in made]
    assert len({nonce.identity for nonce in recognised if nonce}) == 1000
