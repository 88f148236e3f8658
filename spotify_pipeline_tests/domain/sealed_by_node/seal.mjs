// Seals a refresh token for the pipeline: node seal.mjs PUBLIC_KEY USER_ID < token > sealed (base64)
// npm install libsodium-wrappers
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const sodium = createRequire(import.meta.url)("libsodium-wrappers");
await sodium.ready;

const [publicKey, userId] = process.argv.slice(2);
const refreshToken = readFileSync(0, "utf8").trim();
const text = JSON.stringify({ v: 1, user_id: userId, refresh_token: refreshToken });
const { base64_variants } = sodium;
const sealed = sodium.crypto_box_seal(
  text,
  sodium.from_base64(publicKey, base64_variants.ORIGINAL),
);
console.log(sodium.to_base64(sealed, base64_variants.ORIGINAL));
