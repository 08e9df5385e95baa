// What a program on npm's package "webdav" does with a share, in the order in
// which a reader would try it. Run by TestNpmWebdav, which has looked after the
// share's content before and looks at it again afterwards.

import assert from "node:assert/strict";
import { once } from "node:events";
import { buffer, text } from "node:stream/consumers";
import { test } from "node:test";
import { createClient, getPatcher } from "webdav";

const client = createClient(process.env.URL);

/** refused says that a request failed with a status, and not in another way. */
async function refused(status, request) {
  await assert.rejects(request, (err) => {
    assert.equal(err.status ?? err.response?.status, status, String(err));
    return true;
  });
}

test("list and stat", async () => {
  const names = (await client.getDirectoryContents("/")).map((e) => `${e.basename} ${e.type}`);
  assert.deepEqual(names.sort(), ["a file", "docs directory", "old directory", "sp ace %41+#&é file"]);
  const stat = await client.stat("/sp ace %41+#&é");
  assert.equal(stat.filename, "/sp ace %41+#&é");
  assert.equal(stat.size, 3);
  assert.match(stat.etag, /^[^"]+$/); // the package takes the quotes off
  assert.equal(await client.exists("/none"), false);
  assert.equal(await client.exists("/docs"), true);
  const { data } = await client.stat("/a", { details: true });
  assert.equal(data.props.displayname, "a");
});

test("put", async () => {
  assert.equal(await client.putFileContents("/new", "new"), true);
  assert.equal(await client.putFileContents("/bytes", Buffer.from([0, 1, 254, 255])), true);
  assert.deepEqual([...(await client.getFileContents("/bytes"))], [0, 1, 254, 255]);
  await refused(409, client.putFileContents("/no/such/folder", "x"));
});

test("overwrite: false keeps what is there", async () => {
  assert.equal(await client.putFileContents("/new", "lost", { overwrite: false }), false);
  assert.equal(await client.putFileContents("/newer", "newer", { overwrite: false }), true);
  assert.equal(await client.getFileContents("/new", { format: "text" }), "new");
});

test("a partial update changes its part alone", async () => {
  await client.putFileContents("/numbers", "0123456789");
  await client.partialUpdateFileContents("/numbers", 3, 5, "xyz");
  assert.equal(await client.getFileContents("/numbers", { format: "text" }), "012xyz6789");
  await refused(404, client.partialUpdateFileContents("/none", 0, 0, "x"));
  await refused(416, client.partialUpdateFileContents("/numbers", 100, 100, "x"));
  // A file of the lower: its copy in the upper is changed.
  await client.partialUpdateFileContents("/docs/b", 1, 1, "W");
  assert.equal(await client.getFileContents("/docs/b", { format: "text" }), "tWo");
});

test("streams, whole and in part", async () => {
  assert.equal(await text(client.createReadStream("/numbers", { range: { start: 2, end: 4 } })), "2xy");
  assert.equal(await text(client.createReadStream("/numbers", { range: { start: 8 } })), "89");
  const big = Buffer.alloc(1 << 20, "overdav ");
  let answered;
  const created = new Promise((resolve) => (answered = resolve));
  const out = client.createWriteStream("/big", {}, answered);
  out.end(big);
  await once(out, "finish");
  assert.equal((await created).status, 201);
  assert.ok(big.equals(await buffer(client.createReadStream("/big"))));
});

test("folders", async () => {
  await client.createDirectory("/deep/er/still", { recursive: true });
  await refused(405, client.createDirectory("/deep"));
  await refused(409, client.createDirectory("/no/such"));
  await client.putFileContents("/deep/er/file", "in it");
});

test("copy and move", async () => {
  await client.copyFile("/deep", "/copy");
  await client.copyFile("/docs", "/shallow", { shallow: true });
  assert.deepEqual(await client.getDirectoryContents("/shallow"), []);
  await client.moveFile("/docs", "/papers");
  await client.moveFile("/newer", "/sp ace %41+#&é");
  await refused(412, client.moveFile("/new", "/a", { overwrite: false }));
  await client.deleteFile("/old");
  await refused(404, client.deleteFile("/old"));
});

test("a lock keeps others out until it is given back", async () => {
  const lock = await client.lock("/a", { timeout: "Second-600" });
  assert.equal(lock.serverTimeout, "Second-600");
  await refused(423, client.putFileContents("/a", "lost"));
  await refused(423, client.deleteFile("/a"));
  const headers = { If: `(<${lock.token}>)` };
  assert.equal(await client.putFileContents("/a", "mine", { headers }), true);
  // What the package sends of itself to refresh is no If header and is refused;
  // with the header and without the body it is one (RFC 4918, section 9.10.2).
  const refreshToken = lock.token;
  await refused(400, client.lock("/a", { refreshToken }));
  const again = await client.lock("/a", { refreshToken, headers, data: "", timeout: "Second-300" });
  assert.deepEqual(again, { token: lock.token, serverTimeout: "Second-300" });
  await client.unlock("/a", lock.token);
  assert.equal(await client.putFileContents("/a", "everybody's"), true);
  await refused(409, client.unlock("/a", lock.token));
});

test("quota", async () => {
  // Asked for all properties, which is what the package does of itself, overdav
  // leaves the quota out (RFC 4331, section 3). One has to name it.
  assert.equal(await client.getQuota(), null);
  const data = `<propfind xmlns="DAV:"><prop><quota-available-bytes/><quota-used-bytes/></prop></propfind>`;
  const quota = await client.getQuota({ data });
  assert.ok(quota.used >= 0, `used ${quota.used}`);
  assert.ok(quota.available > 0, `available ${quota.available}`);
});

test("a listing without end is refused and says so", async () => {
  let said;
  getPatcher().patch("fetch", async (...args) => {
    const response = await fetch(...args);
    said = await response.clone().text();
    return response;
  });
  await refused(403, client.getDirectoryContents("/", { deep: true }));
  assert.match(said, /propfind-finite-depth/); // RFC 4918, section 9.1.1
});
