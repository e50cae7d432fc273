//! What control tells a node: who else is there.

use crate::plan::Plan;

/// The nodes that control knows to be online, by site and all together.
pub(crate) struct Directory {
    everybody: Group,
    sites: Vec<Group>,
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

impl Directory {
    pub(crate) fn new(plan: &Plan) -> Self {
        let nodes = plan.nodes.len();
        Self {
            everybody: Group::new(nodes),
            sites: (0..plan.sites()).map(|_| Group::new(nodes)).collect(),
        }
    }

    pub(crate) fn joined(&mut self, node: usize, site: u32) {
        self.everybody.insert(node);
        self.sites[site as usize].insert(node);
    }

    pub(crate) fn left(&mut self, node: usize, site: u32) {
        self.everybody.remove(node);
        self.sites[site as usize].remove(node);
    }

    /// An answer to `node`: half of it from its own site, the rest from everywhere.
    pub(crate) fn answer(
        &self,
        rng: &mut fastrand::Rng,
        node: usize,
        site: u32,
        count: usize,
    ) -> Vec<usize> {
        let mut chosen = Vec::new();
        if self.sites.len() > 1 {
            self.sites[site as usize].choose(rng, node, count / 2, &mut chosen);
        }
        self.everybody.choose(rng, node, count, &mut chosen);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use floodway_proto::{ByteRate, Layout};

    use super::*;
    use crate::plan::{Link, NodePlan};

    #[test]
    fn half_of_an_answer_is_of_the_same_site_and_nobody_is_named_twice() {
        let link = Link::of(ByteRate(1));
        let node = |site| NodePlan {
            site,
            ..NodePlan::new(link)
        };
        let nodes: Vec<_> = (0..400).map(|at| node(at % 8)).collect();
        let plan = Plan::new("directory", Layout::new(Some(1), 1 << 18).unwrap(), nodes);
        let mut directory = Directory::new(&plan);
        for (at, node) in plan.nodes.iter().enumerate() {
            directory.joined(at, node.site);
        }
        let mut rng = fastrand::Rng::with_seed(1);
        for me in 0..400 {
            let mut answer = directory.answer(&mut rng, me, plan.nodes[me].site, 20);
            let near = answer
                .iter()
                .filter(|&&at| plan.nodes[at].site == plan.nodes[me].site);
            assert!((10..18).contains(&near.count()));
            answer.sort_unstable();
            answer.dedup();
            assert!(answer.len() == 20 && !answer.contains(&me));
        }
        (2..400).for_each(|at| directory.left(at, plan.nodes[at].site));
        assert_eq!(directory.answer(&mut rng, 0, 0, 20), [1]);
    }
}
