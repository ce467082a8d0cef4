import json

import jwt

from drayman.server.auth.keys import PublicKey, SigningKey, jwk_set


def test_a_key_is_named_by_its_thumbprint() -> None:
    # the key of RFC 8037 appendix A.3
    raw = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey.from_bytes("any", raw)
    assert key.public().raw.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    made = SigningKey.generate()
    assert len(made.key_id) == 43
    assert made.key_id != SigningKey.generate().key_id


def test_a_key_is_read_as_it_was_written() -> None:
    key = SigningKey.generate()
    again = SigningKey.from_bytes(key.key_id, key.to_bytes())
    assert again.public() == key.public()


def test_the_set_holds_public_parts_only_and_verifies() -> None:
    keys = [SigningKey.generate(), SigningKey.generate()]
    text = jwk_set(key.public() for key in keys)
    for entry in json.loads(text)["keys"]:
        assert entry.keys() == {"crv", "kty", "x", "kid", "use", "alg"}
    read = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.loads(text)).keys}
    for key in keys:
        token = jwt.encode({"sub": "ada"}, key.private, algorithm="EdDSA", headers={"kid": key.key_id})
        assert jwt.decode(token, read[key.key_id], algorithms=["EdDSA"])["sub"] == "ada"


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    entry = json.loads(jwk_set([PublicKey("k", raw)]))["keys"][0]
    # appendix A.2 and A.3: x of the public key
    assert entry["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
