//! Associations of SCTP through the programs at the links.

use crate::{
    links::{each_way, ip},
    sctp_packet::{ABORT, COOKIE_ECHO, INIT, INIT_ACK, Raw, packet},
    tc::{FRONTENDS, put},
    world::World,
};
use weft_model::Protocol::Sctp;
use weft_services::ServiceTables;

pub fn checksums_stay_right(world: &World) {
    each_way(world, |node| {
        // No socket hook knows SCTP, so nobody has to opt out.
        let (client, server, other) = (node.pod(), node.pod(), node.pod());
        let mut tables = ServiceTables::default();
        put(&mut tables, Sctp, FRONTENDS, (9, 19), &[&server]);
        node.apply(&tables);
        for (family, frontend) in FRONTENDS.map(ip).into_iter().enumerate() {
            let v4 = family == 0;
            let [c, s, o] = [&client, &server, &other].map(|p| p.run(|| Raw::new(v4)));
            for (port, len) in [(5000, 16), (5001, 0), (5002, 1), (5003, 1300)] {
                c.send(frontend, &packet((port, 9), INIT, len));
                let own = (client.ips[family], (port, 19), INIT, len);
                assert_eq!(s.receive(), own, "{len} bytes");
                s.send(client.ips[family], &packet((19, port), INIT_ACK, len));
                assert_eq!(c.receive(), (frontend, (9, port), INIT_ACK, len));
                c.send(frontend, &packet((port, 9), COOKIE_ECHO, len));
                assert_eq!(s.receive(), (own.0, own.1, COOKIE_ECHO, len));
            }
            // An association stays when its backend leaves, and begins anew at another one.
            let mut moved = ServiceTables::default();
            put(&mut moved, Sctp, FRONTENDS, (9, 19), &[&other]);
            node.apply(&moved);
            c.send(frontend, &packet((5000, 9), ABORT, 4));
            assert_eq!(s.receive().2, ABORT);
            c.send(frontend, &packet((5000, 9), INIT, 20));
            assert_eq!(o.receive(), (client.ips[family], (5000, 19), INIT, 20));
            node.apply(&tables);
        }
        assert_eq!(node.links().stats().unwrap().errors, 0);
    });
}
