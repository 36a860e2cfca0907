// A real OpenID provider for tests: client credentials, JWT access tokens (RFC 9068), certificate-bound ones (RFC 8705).
// Usage: node provider.mjs CONFIG.json; the folder holds what the configuration names.  Prints "ready" when it listens.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { X509Certificate } from 'node:crypto';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const require = createRequire(config.modules + '/index.js');
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

const provider = new Provider(config.issuer, {
  clients: config.clients,
  jwks: config.jwks,
  cookies: { keys: ['only-for-tests'] },
  enabledJWA: { dPoPSigningAlgValues: ['ES256'] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => config.audience,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, resource, client) => ({
        scope: 'broker',
        audience: resource,
        accessTokenFormat: 'jwt',
        accessTokenTTL: config.ttl[client.clientId] ?? 600,
        jwt: { sign: { alg: config.algorithms[client.clientId] ?? 'ES256' } },
      }),
    },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      getCertificate: (ctx) => {
        const raw = ctx.socket.getPeerCertificate(true).raw;
        return raw ? new X509Certificate(raw) : undefined;
      },
    },
  },
  extraTokenClaims: (ctx, token) => config.claims[token.clientId] ?? {},
});
const tls = { cert: readFileSync(config.certificate), key: readFileSync(config.key), requestCert: true, rejectUnauthorized: false };
createServer(tls, provider.callback()).listen(config.port, '127.0.0.1', () => console.log('ready'));
