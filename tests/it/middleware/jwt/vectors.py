"""Prints a set of keys, tokens that they sign, and tokens that prove nothing, as jwcrypto makes them."""

import base64
import json
import time

from jwcrypto import jwe, jwk, jws, jwt

NOW = int(time.time())
CLAIMS = {"iss": "https://login.test", "aud": "shop", "sub": "ann", "exp": NOW + 600, "iat": NOW}

keys = {
    "RS256": jwk.JWK.generate(kty="RSA", size=2048, kid="rsa", use="sig"),
    "ES256": jwk.JWK.generate(kty="EC", crv="P-256", kid="p256", use="sig"),
    "ES384": jwk.JWK.generate(kty="EC", crv="P-384", kid="p384"),
    "EdDSA": jwk.JWK.generate(kty="OKP", crv="Ed25519", kid="ed"),
}
keys["RS512"] = keys["PS256"] = keys["RS256"]
stranger = jwk.JWK.generate(kty="RSA", size=2048, kid="rsa")


def signed(key, head, claims=None, payload=None):
    token = jws.JWS(payload if payload is not None else json.dumps(CLAIMS if claims is None else claims))
    token.allowed_algs = [head["alg"], "HS256", "RS256", "ES256"]
    token.add_signature(key, head["alg"], json.dumps(head))
    return token.serialize(compact=True)


def encoded(value):
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def changed(**claims):
    return signed(keys["RS256"], {"alg": "RS256", "kid": "rsa"}, {**CLAIMS, **claims})


good = {algorithm: signed(key, {"alg": algorithm, "kid": key.get("kid")}) for algorithm, key in keys.items()}
good["without kid"] = signed(keys["ES256"], {"alg": "ES256"})
good["typ at+jwt"] = signed(keys["RS256"], {"alg": "RS256", "kid": "rsa", "typ": "at+jwt"})
good["made by jwt.JWT"] = (lambda token: (token.make_signed_token(keys["EdDSA"]), token.serialize())[1])(
    jwt.JWT(header={"alg": "EdDSA", "kid": "ed"}, claims=CLAIMS))

public = keys["RS256"].export_to_pem()
secret = jwk.JWK(kty="oct", k=encoded(public))
oct_of_set = jwk.JWK(kty="oct", k=encoded(keys["RS256"].export_public().encode()))
encrypted = jwe.JWE(json.dumps(CLAIMS), json.dumps({"alg": "RSA-OAEP", "enc": "A128GCM", "kid": "rsa"}))
encrypted.add_recipient(jwk.JWK.generate(kty="RSA", size=2048))
none = encoded(json.dumps({"alg": "none", "kid": "rsa"}).encode())
body = encoded(json.dumps(CLAIMS).encode())
head, _, signature = good["RS256"].split(".")
flattened = jws.JWS(json.dumps(CLAIMS))
flattened.add_signature(keys["RS256"], "RS256", json.dumps({"alg": "RS256", "kid": "rsa"}))
es_signature = base64.urlsafe_b64decode(good["ES256"].split(".")[2] + "==")
zeros = encoded(b"\0" * 64)

bad = {
    "none": f"{none}.{body}.",
    "none, with a signature": f"{none}.{body}.{signature}",
    "HS256 with the public key in PEM": signed(secret, {"alg": "HS256", "kid": "rsa"}),
    "HS256 with the public key as a JWK": signed(oct_of_set, {"alg": "HS256", "kid": "rsa"}),
    "another key of that name": signed(stranger, {"alg": "RS256", "kid": "rsa"}),
    "its own key": signed(stranger, {"alg": "RS256", "jwk": json.loads(stranger.export_public())}),
    "jku": signed(stranger, {"alg": "RS256", "kid": "rsa", "jku": "http://127.0.0.1:1/"}),
    "a name that nobody has": signed(keys["RS256"], {"alg": "RS256", "kid": "other"}),
    "another key's name": signed(keys["RS256"], {"alg": "RS256", "kid": "p256"}),
    "encrypted": encrypted.serialize(compact=True),
    "not compact": flattened.serialize(),
    "no signature": f"{head}.{body}.",
    "another body": f"{head}.{encoded(json.dumps({**CLAIMS, 'sub': 'root'}).encode())}.{signature}",
    "another signature": f"{good['RS512'].rsplit('.', 1)[0]}.{signature}",
    "r and s of 0": f"{good['ES256'].rsplit('.', 1)[0]}.{zeros}",
    "a signature in DER": f"{good['ES256'].rsplit('.', 1)[0]}.{encoded(bytes([48, 68, 2, 32]) + es_signature[:32] + bytes([2, 32]) + es_signature[32:])}",
    "PS384, which is not taken": signed(keys["RS256"], {"alg": "PS384", "kid": "rsa"}),
    "names twice": signed(keys["RS256"], {"alg": "RS256", "kid": "rsa"},
                          payload=json.dumps(CLAIMS)[:-1] + ', "sub": "root"}'),
    "expired": changed(exp=NOW - 60),
    "not yet": changed(nbf=NOW + 120),
    "made later": changed(iat=NOW + 3600),
    "of somebody else": changed(iss="https://evil.test"),
    "for somebody else": changed(aud="other"),
    "an exp that is no number": changed(exp=str(NOW + 600)),
    "a huge exp": changed(exp=10**400),
    "no claims": signed(keys["RS256"], {"alg": "RS256", "kid": "rsa"}, payload="[]"),
    "too long": changed(more="x" * 20000),
}
for name, value in {"b64": False, "exp": 1, "something": "new"}.items():
    forged = encoded(json.dumps({"alg": "RS256", "kid": "rsa", "crit": [name], name: value}).encode())
    bad[f"crit {name}"] = f"{forged}.{body}.{signature}"

published = [json.loads(key.export_public()) for name, key in keys.items() if name not in ("RS512", "PS256")]
print(json.dumps({"jwks": {"keys": published}, "good": good, "bad": bad}))
