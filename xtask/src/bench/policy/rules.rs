//! The same policies as rules of nftables, written by hand, on a node made of namespaces: a rule
//! for each policy, as controllers write them, and one look-up in a set, as nobody does.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use std::{
    fmt::Write as _,
    io::Write,
    process::{Command, Stdio},
};
use weft_netlink::{Netlink, Route, VethSpec, sysctl};

use super::super::{
    netfilter::{Load, Namespace, SERVER, load, serve},
    stats::Spread,
};

const ROUNDS: usize = 7;
const POLICIES: [usize; 4] = [0, 100, 1_000, 10_000];
const KINDS: [&str; 3] = ["rr", "crr", "stream"];
const POD: &str = "10.8.2.2";
const CLIENT: &str = "10.8.1.2";

/// A node that forwards between a client and a server.
struct World {
    client: Load,
    _server: super::super::netfilter::Worker,
    node: Namespace,
    _others: [Namespace; 2],
}

impl World {
    fn new(name: &str) -> Result<Self> {
        let node = Namespace::new(name, "node")?;
        let others = [Namespace::new(name, "client")?, Namespace::new(name, "pod")?];
        let at_node = Netlink::open_in(&node.path)?;
        at_node.set_up("lo")?;
        for (i, (other, address)) in others.iter().zip([CLIENT, POD]).enumerate() {
            let (link, third) = (format!("wv{i}"), i + 1);
            let peer_netns = Some(other.path.as_path());
            at_node.create_veth(&VethSpec {
                name: &link,
                peer_name: "eth0",
                peer_netns,
                ..VethSpec::default()
            })?;
            let at: IpNet = format!("10.8.{third}.1/24").parse().context("prefix")?;
            at_node.add_address(&link, at)?;
            at_node.set_up(&link)?;
            let there = Netlink::open_in(&other.path)?;
            there.add_address("eth0", format!("{address}/24").parse().context("prefix")?)?;
            there.set_up("lo")?;
            there.set_up("eth0")?;
            let mut route = Route::to(Route::default_of(at.addr()));
            route.gateway = Some(at.addr());
            there.replace_route(&route)?;
        }
        sysctl::write_in(&node.path, &[("net/ipv4/ip_forward", "1")])?;
        let (client, server) = (load(&others[0])?, serve(&others[1])?);
        Ok(Self { client, _server: server, node, _others: others })
    }

    fn set(&self, rules: &str) -> Result<()> {
        let mut nft = Command::new("nsenter");
        nft.arg(format!("--net={}", self.node.path.display())).args(["nft", "-f", "-"]);
        let mut nft = nft.stdin(Stdio::piped()).spawn().context("start nft")?;
        let mut input = nft.stdin.take().context("invariant: stdin is piped")?;
        input.write_all(rules.as_bytes()).context("write rules")?;
        drop(input);
        if !nft.wait().context("wait for nft")?.success() {
            bail!("nft refuses the rules");
        }
        Ok(())
    }
}

/// What begins and ends both: established flows pass, the rest is dropped.
fn around(what: &str) -> String {
    format!(
        "table ip policies {{\n{what}  chain forward {{\n    type filter hook forward priority 0;\n    \
         ct state established,related accept\n    ip daddr {POD} jump pod\n    ip saddr {CLIENT} \
         jump pod\n  }}\n}}\n"
    )
}

/// A rule a policy; the one that lets in what is measured stands last.
fn as_rules(policies: usize) -> String {
    let mut rules = String::from("  chain pod {\n");
    for n in (1..policies).chain([0]) {
        let _ = match n {
            0 => writeln!(rules, "    ip saddr {CLIENT} tcp dport {SERVER} accept"),
            n => writeln!(
                rules,
                "    ip saddr 10.9.{}.{} tcp dport {} accept",
                n % 2,
                n % 250,
                10_000 + n
            ),
        };
    }
    around(&(rules + "    drop\n  }\n"))
}

/// All policies in one set.
fn as_set(policies: usize) -> String {
    let mut elements = vec![format!("{CLIENT} . {SERVER}")];
    elements.extend((1..policies).map(|n| format!("10.9.{}.{} . {}", n % 2, n % 250, 10_000 + n)));
    around(&format!(
        "  set allowed {{\n    type ipv4_addr . inet_service\n    elements = {{ {} }}\n  }}\n  chain \
         pod {{\n    ip saddr . tcp dport @allowed accept\n    drop\n  }}\n",
        elements.join(", ")
    ))
}

/// Runs as root, for `cargo xtask bench policy`.
pub fn main() -> Result<()> {
    println!(
        "\nThe same policies as rules of nftables, forwarded by a plain kernel; ratios to none"
    );
    println!("{:<28} {}", "", KINDS.map(|k| format!("{k:<22}")).concat());
    let (mut plain, mut ruled, mut set) =
        (World::new("plain")?, World::new("ruled")?, World::new("set")?);
    for policies in POLICIES {
        if policies > 0 {
            let again = if policies == POLICIES[1] { "" } else { "delete table ip policies\n" };
            ruled.set(&format!("{again}{}", as_rules(policies)))?;
            set.set(&format!("{again}{}", as_set(policies)))?;
        }
        let mut rows = [const { Vec::new() }; 3];
        for kind in KINDS {
            let mut ratios = [const { Vec::new() }; 3];
            for round in 0..=ROUNDS {
                let ask = |world: &mut World| world.client.ask(kind, (POD, SERVER));
                let none = ask(&mut plain)?;
                let all = [ask(&mut plain)?, ask(&mut ruled)?, ask(&mut set)?];
                // The first round warms up.
                if round > 0 {
                    ratios.iter_mut().zip(all).for_each(|(r, rate)| r.push(rate / none));
                }
            }
            rows.iter_mut().zip(&ratios).for_each(|(row, r)| row.push(Spread::of(r).to_string()));
        }
        for (name, row) in ["none again (A/A)", "a rule each", "one set"].iter().zip(&rows) {
            let cells: String = row.iter().map(|c| format!("{c:<22}")).collect();
            println!("{:<28} {cells}", format!("{policies} policies, {name}"));
        }
    }
    Ok(())
}
