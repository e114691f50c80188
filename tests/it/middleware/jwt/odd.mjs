// Prints a set of keys and odd tokens as jose makes them, each with what jose itself says of it under the rules of the test.

import * as jose from "jose";
import { deflateRawSync } from "node:zlib";

const rules = { issuer: "https://login.test", audience: "shop", algorithms: ["RS256", "PS256", "ES256", "EdDSA"] };
const now = Math.floor(Date.now() / 1000);
const claims = { iss: rules.issuer, aud: "shop", sub: "ann", exp: now + 600, iat: now };

const pairs = {};
for (const [kid, alg] of [["rsa", "RS256"], ["p256", "ES256"], ["ed", "EdDSA"], ["p521", "ES512"]]) {
  const { publicKey, privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  pairs[kid] = { privateKey, jwk: { ...(await jose.exportJWK(publicKey)), kid } };
}
const jwks = { keys: Object.values(pairs).map(({ jwk }) => jwk) };
const set = jose.createLocalJWKSet(jwks);
const encoder = new TextEncoder();

const signed = (head, payload = claims, kid = head.kid) =>
  new jose.CompactSign(encoder.encode(typeof payload === "string" ? payload : JSON.stringify(payload)))
    .setProtectedHeader(head).sign(pairs[kid ?? "rsa"].privateKey);
const encode = (value) => jose.base64url.encode(typeof value === "string" ? encoder.encode(value) : value);
const changed = (more) => signed({ alg: "RS256", kid: "rsa" }, { ...claims, ...more });

const good = await signed({ alg: "RS256", kid: "rsa" });
const [head, body, signature] = good.split(".");
const { publicKey: toPublic } = await jose.generateKeyPair("RSA-OAEP-256");
const general = await new jose.GeneralSign(encoder.encode(JSON.stringify(claims)))
  .addSignature(pairs.rsa.privateKey).setProtectedHeader({ alg: "RS256", kid: "rsa" }).sign();
const unencoded = await new jose.FlattenedSign(encoder.encode(JSON.stringify(claims)))
  .setProtectedHeader({ alg: "RS256", kid: "rsa", b64: false, crit: ["b64"] }).sign(pairs.rsa.privateKey);

const tokens = {
  "RS256": good,
  "PS256 with the same key": await new jose.SignJWT(claims).setProtectedHeader({ alg: "PS256", kid: "rsa" })
    .sign(await jose.importJWK({ ...(await jose.exportJWK(pairs.rsa.privateKey)), alg: "PS256" }, "PS256")),
  "ES256": await signed({ alg: "ES256", kid: "p256" }),
  "EdDSA": await signed({ alg: "EdDSA", kid: "ed" }),
  "a list of audiences": await changed({ aud: ["bank", "shop"] }),
  "more headers": await signed({ alg: "RS256", kid: "rsa", typ: "JWT", cty: "x", jku: "https://evil.test/jwks", x5u: "https://evil.test" }),
  "an embedded key that is not used": await signed({ alg: "RS256", kid: "rsa", jwk: pairs.p256.jwk }),
  "ES512, which is not allowed": await signed({ alg: "ES512", kid: "p521" }),
  "an unsecured token": new jose.UnsecuredJWT(claims).encode(),
  "an encrypted token": await new jose.EncryptJWT(claims).setProtectedHeader({ alg: "RSA-OAEP-256", enc: "A256GCM", kid: "rsa" }).encrypt(toPublic),
  "a token in a token": await signed({ alg: "RS256", kid: "rsa", cty: "JWT" }, good),
  "an unencoded payload": `${unencoded.protected}.${encode(JSON.stringify(claims))}.${unencoded.signature}`,
  "a detached payload": `${head}..${signature}`,
  "crit of something known": await signed({ alg: "RS256", kid: "rsa", crit: ["b64"], b64: true }),
  "a zipped payload": await new jose.CompactSign(deflateRawSync(JSON.stringify(claims)))
    .setProtectedHeader({ alg: "RS256", kid: "rsa", zip: "DEF" }).sign(pairs.rsa.privateKey),
  "JSON instead of a token": JSON.stringify(general),
  "an expired token": await changed({ exp: now - 600 }),
  "a token for later": await changed({ nbf: now + 600 }),
  "exp as a text": await changed({ exp: String(now + 600) }),
  "exp as a fraction": await changed({ exp: now + 600.5 }),
  "without exp": await changed({ exp: undefined }),
  "another audience": await changed({ aud: "bank" }),
  "an audience that begins likewise": await changed({ aud: "shops" }),
  "another issuer": await changed({ iss: "https://login.test/" }),
  "claims in a list": await signed({ alg: "RS256", kid: "rsa" }, JSON.stringify([claims])),
  "no claims at all": await signed({ alg: "RS256", kid: "rsa" }, "ann"),
  "another key's name": await signed({ alg: "RS256", kid: "p256" }, claims, "rsa"),
  "the algorithm of another key": await signed({ alg: "RS256", kid: "ed" }, claims, "rsa"),
  "a key that is not there": await signed({ alg: "RS256", kid: "gone" }, claims, "rsa"),
  "the algorithm in small letters": `${encode(JSON.stringify({ alg: "rs256", kid: "rsa" }))}.${body}.${signature}`,
  "a signature of nothing": `${head}.${body}.`,
  "a longer signature": `${good}AA`,
  "four parts": `${good}.${signature}`,
  "padding": `${head}.${body}.${signature}==`,
};

const said = {};
for (const [name, token] of Object.entries(tokens)) {
  try {
    await jose.jwtVerify(token, set, { ...rules, clockTolerance: 0, requiredClaims: ["exp", "iss", "aud"] });
    said[name] = { token, good: true };
  } catch (error) {
    said[name] = { token, good: false, why: error.code ?? error.name };
  }
}
console.log(JSON.stringify({ jwks, said }));
