//! A small SPDY/3.1 client of its own, written from the specification and not from the server.

use crate::world::{NS, World};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

struct Client {
    io: UnixStream,
    begun: bool,
    got: BTreeMap<u32, Vec<u8>>,
    ended: Vec<u32>,
}

impl Client {
    fn connect(w: &World, path: &str, protocol: &str) -> Self {
        let mut io = UnixStream::connect(w.dir.join("kubelet.sock")).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(
            io,
            "POST {path} HTTP/1.1\r\nHost: kubelet\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {protocol}\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut b = [0];
            io.read_exact(&mut b).unwrap();
            head.push(b[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains(&format!("x-stream-protocol-version: {protocol}")), "{head}");
        Self { io, begun: false, got: BTreeMap::new(), ended: Vec::new() }
    }

    fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(n, v)| [n, v]) {
            block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut body = [id.to_be_bytes(), [0; 4]].concat();
        body.extend([0, 0]);
        if !std::mem::replace(&mut self.begun, true) {
            body.extend([0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
        }
        let n = u16::try_from(block.len()).unwrap();
        body.push(0);
        body.extend(n.to_le_bytes());
        body.extend((!n).to_le_bytes());
        body.extend(block);
        let mut frame = vec![0x80, 3, 0, 1, 0];
        frame.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        frame.extend(body);
        self.io.write_all(&frame).unwrap();
    }

    fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        let mut frame = id.to_be_bytes().to_vec();
        frame.push(u8::from(fin));
        frame.extend(&u32::try_from(bytes.len()).unwrap().to_be_bytes()[1..]);
        frame.extend(bytes);
        self.io.write_all(&frame).unwrap();
    }

    /// Reads until all these streams have ended.
    fn until_end(&mut self, ids: &[u32]) {
        while !ids.iter().all(|id| self.ended.contains(id)) {
            let mut head = [0; 8];
            self.io.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
            let mut body = vec![0; usize::try_from(length).unwrap()];
            self.io.read_exact(&mut body).unwrap();
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            if word >> 31 == 0 {
                self.got.entry(word).or_default().extend(body);
                if head[4] & 1 != 0 {
                    self.ended.push(word);
                }
            } else if word & 0xffff == 3 {
                self.ended.push(u32::from_be_bytes([body[0], body[1], body[2], body[3]]));
            }
        }
    }

    fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.got.get(&id).map_or(&[], Vec::as_slice)).into_owned()
    }
}

pub fn spdy(w: &World) {
    w.pod(
        "spdy",
        json!({"containers": [
            {"name": "c", "command": ["sleep", "1000"]},
            {"name": "web", "ports": [{"containerPort": 8080}],
             "readinessProbe": {"exec": {"command": ["true"]}}}]}),
    );
    w.until_ready("spdy");
    let path = format!(
        "/exec/{NS}/spdy/c?command=sh&command=-c&command=cat%3B+echo+e+%3E%262%3B+exit+6\
         &stdin=1&stdout=1&stderr=1"
    );
    let mut c = Client::connect(w, &path, "v4.channel.k8s.io");
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        c.open(id, &[("streamtype", kind)]);
    }
    let big = "0123456789".repeat(50_000);
    for part in big.as_bytes().chunks(30_000) {
        c.data(3, part, false);
    }
    c.data(3, b"end", true);
    c.until_end(&[1, 5, 7]);
    assert_eq!(c.text(5).len(), big.len() + 3);
    assert_eq!(c.text(7), "e\n");
    let status: serde_json::Value = serde_json::from_str(&c.text(1)).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "6", "{status}");

    let path = format!("/portForward/{NS}/spdy");
    let mut c = Client::connect(w, &path, "portforward.k8s.io");
    // The stand-in may still be about to listen.
    let mut id = 1;
    let start = std::time::Instant::now();
    loop {
        let request = id.to_string();
        let common = [("port", "8080"), ("requestid", request.as_str())];
        c.open(id, &[("streamtype", "error"), common[0], common[1]]);
        c.open(id + 2, &[("streamtype", "data"), common[0], common[1]]);
        c.data(id + 2, b"GET /hi HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false);
        c.until_end(&[id, id + 2]);
        if c.text(id).is_empty() {
            break;
        }
        assert!(start.elapsed().as_secs() < 10, "{}", c.text(id));
        id += 4;
    }
    assert!(c.text(id + 2).contains("\"/hi\""), "{}", c.text(id + 2));
    c.open(id + 4, &[("streamtype", "error"), ("port", "9"), ("requestid", "no")]);
    c.open(id + 6, &[("streamtype", "data"), ("port", "9"), ("requestid", "no")]);
    c.until_end(&[id + 4, id + 6]);
    assert!(c.text(id + 4).contains("refused"), "the reason is told: {}", c.text(id + 4));
    w.delete_and_wait("spdy", 0);
}
