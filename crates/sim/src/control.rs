//! What control tells a node: who else is there.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use floodway_proto::{PARTS, Site};

use crate::plan::Plan;

/// The nodes that control knows to be online, by site and all together.
pub(crate) struct Directory<'a> {
    plan: &'a Plan,
    everybody: Group,
    sites: Vec<Group>,
    /// Who brings each part, by site.
    parts: Vec<[Option<usize>; PARTS as usize]>,
    /// Sites whose parts are to be dealt anew.
    undealt: BTreeSet<usize>,
}

/// A set with random choice.
struct Group {
    members: Vec<usize>,
    /// Where each node stands in `members`.
    position: Vec<Option<usize>>,
}

impl Group {
    fn new(nodes: usize) -> Self {
        Self {
            members: Vec::new(),
            position: vec![None; nodes],
        }
    }

    fn insert(&mut self, node: usize) {
        if self.position[node].is_none() {
            self.position[node] = Some(self.members.len());
            self.members.push(node);
        }
    }

    fn remove(&mut self, node: usize) {
        if let Some(at) = self.position[node].take() {
            self.members.swap_remove(at);
            if let Some(&moved) = self.members.get(at) {
                self.position[moved] = Some(at);
            }
        }
    }

    /// Adds members at random to `chosen` until it has `count`, or all.
    fn choose(&self, rng: &mut fastrand::Rng, me: usize, count: usize, chosen: &mut Vec<usize>) {
        let fits = |node: usize, chosen: &[usize]| node != me && !chosen.contains(&node);
        if self.members.len() <= count * 2 {
            let mut all = self.members.clone();
            rng.shuffle(&mut all);
            for node in all {
                if chosen.len() < count && fits(node, chosen) {
                    chosen.push(node);
                }
            }
            return;
        }
        while chosen.len() < count {
            let node = self.members[rng.usize(..self.members.len())];
            if fits(node, chosen) {
                chosen.push(node);
            }
        }
    }
}

impl<'a> Directory<'a> {
    pub(crate) fn new(plan: &'a Plan) -> Self {
        let nodes = plan.nodes.len();
        Self {
            plan,
            everybody: Group::new(nodes),
            sites: (0..plan.sites()).map(|_| Group::new(nodes)).collect(),
            parts: vec![[None; PARTS as usize]; plan.sites()],
            undealt: BTreeSet::new(),
        }
    }

    pub(crate) fn joined(&mut self, node: usize) {
        self.everybody.insert(node);
        let site = self.site_of(node);
        self.sites[site].insert(node);
        if self.sites[site].members.len() <= PARTS.into() || self.parts[site].contains(&None) {
            self.undealt.insert(site);
        }
    }

    pub(crate) fn left(&mut self, node: usize) {
        self.everybody.remove(node);
        let site = self.site_of(node);
        self.sites[site].remove(node);
        if self.parts[site].contains(&Some(node)) {
            self.undealt.insert(site);
        }
    }

    fn site_of(&self, node: usize) -> usize {
        self.plan.nodes[node].site as usize
    }

    /// Where a node stands, and what it is to bring there: seeds nothing, of the others those with the best uplinks the same
    /// number of parts each.
    pub(crate) fn site(&mut self, node: usize) -> Site {
        let at = self.site_of(node);
        while let Some(site) = self.undealt.pop_first() {
            self.deal_parts(site);
        }
        let is_its = |part: &Option<usize>| *part == Some(node);
        let first = self.parts[at].iter().position(is_its);
        let last = self.parts[at].iter().rposition(is_its);
        let part = |index: usize| u8::try_from(index).unwrap_or(u8::MAX);
        Site {
            tag: at as u64 + 1,
            first: first.map_or(0, part),
            end: last.map_or(0, |last| part(last + 1)),
        }
    }

    /// Divides the parts anew.
    fn deal_parts(&mut self, site: usize) {
        let nodes = &self.plan.nodes;
        let members = self.sites[site].members.iter().copied();
        let mut members: Vec<_> = members.filter(|&node| !nodes[node].seed).collect();
        members.sort_by_key(|&node| (Reverse(nodes[node].link.up), node));
        members.truncate(PARTS.into());
        let count = members.len();
        for (index, part) in self.parts[site].iter_mut().enumerate() {
            *part = members.get(index * count / usize::from(PARTS)).copied();
        }
    }

    /// Who brings a part to one of the sites, from the one numbered `site` on.
    fn who_brings(&self, part: usize, site: usize) -> Option<usize> {
        let (before, after) = self.parts.split_at(site % self.parts.len());
        after.iter().chain(before).find_map(|parts| parts[part])
    }

    /// An answer to `node`. Without sites anybody; with sites whoever brings nothing hears of its own site, who brings
    /// something for a fifth of those that bring the same to other sites, and of seeds.
    pub(crate) fn answer(&self, rng: &mut fastrand::Rng, node: usize, count: usize) -> Vec<usize> {
        let mut chosen = Vec::new();
        if self.sites.len() > 1 {
            let site = self.site_of(node);
            let parts = (0..PARTS.into()).filter(|&part| self.parts[site][part] == Some(node));
            let parts: Vec<usize> = parts.collect();
            for &part in &parts {
                if self.who_brings(part, part) == Some(node) {
                    chosen.extend(self.seeds());
                }
            }
            chosen.dedup();
            for _ in 0..count * usize::from(!parts.is_empty()) {
                let part = parts[rng.usize(..parts.len())];
                let other = self.who_brings(part, rng.usize(..self.sites.len()));
                let other = other.filter(|other| *other != node && !chosen.contains(other));
                chosen.extend(other);
                if chosen.len() >= count / 5 {
                    break;
                }
            }
            self.sites[site].choose(rng, node, count, &mut chosen);
        } else {
            self.everybody.choose(rng, node, count, &mut chosen);
        }
        chosen
    }

    fn seeds(&self) -> impl Iterator<Item = usize> + '_ {
        let is_seed = |node: &usize| self.plan.nodes[*node].seed;
        self.everybody.members.iter().copied().filter(is_seed)
    }
}

#[cfg(test)]
mod tests {
    use floodway_proto::{ByteRate, Layout};

    use super::*;
    use crate::plan::{Link, NodePlan};

    fn plan(nodes: usize, sites: u32) -> Plan {
        let link = Link::of(ByteRate(1));
        let node = |site| NodePlan {
            site,
            ..NodePlan::new(link)
        };
        let nodes = (0..nodes).map(|at| node(u32::try_from(at).unwrap() % sites));
        let layout = Layout::new(Some(1), 1 << 18).unwrap();
        Plan::new("directory", layout, nodes.collect())
    }

    #[test]
    fn whoever_brings_a_part_hears_of_others_that_do_and_the_rest_of_its_own_site() {
        let plan = plan(400, 8);
        let mut directory = Directory::new(&plan);
        (0..400).for_each(|at| directory.joined(at));
        let mut rng = fastrand::Rng::with_seed(1);
        for me in 0..400 {
            let site = directory.site(me);
            let mut answer = directory.answer(&mut rng, me, 20);
            let (near, far): (Vec<usize>, Vec<usize>) =
                (answer.iter()).partition(|&&at| plan.nodes[at].site == plan.nodes[me].site);
            let brings = site.first < site.end;
            assert_eq!(brings, !far.is_empty());
            assert!(far.len() <= 4 && near.len() >= 16);
            for other in far {
                assert_eq!(directory.site(other).first, site.first);
            }
            answer.sort_unstable();
            answer.dedup();
            assert!(answer.len() == 20 && !answer.contains(&me));
        }
    }

    #[test]
    fn each_part_of_a_site_is_somebodys_whoever_leaves() {
        let plan = plan(40, 2);
        let mut directory = Directory::new(&plan);
        (0..40).for_each(|at| directory.joined(at));
        let owners = |directory: &mut Directory<'_>, online: std::ops::Range<usize>| {
            let mut owners = [0; PARTS as usize];
            for at in online.filter(|at| at % 2 == 0) {
                let site = directory.site(at);
                (site.first..site.end).for_each(|part| owners[usize::from(part)] += 1);
            }
            owners
        };
        assert_eq!(owners(&mut directory, 0..40), [1; PARTS as usize]);
        (0..36).for_each(|at| directory.left(at));
        assert_eq!(owners(&mut directory, 36..40), [1; PARTS as usize]);
    }

    #[test]
    fn without_sites_everybody_may_be_named_once() {
        let plan = plan(60, 1);
        let mut directory = Directory::new(&plan);
        (0..60).for_each(|at| directory.joined(at));
        let mut rng = fastrand::Rng::with_seed(1);
        let mut answer = directory.answer(&mut rng, 0, 20);
        answer.sort_unstable();
        answer.dedup();
        assert!(answer.len() == 20 && !answer.contains(&0));
        (2..60).for_each(|at| directory.left(at));
        assert_eq!(directory.answer(&mut rng, 0, 20), [1]);
    }
}
