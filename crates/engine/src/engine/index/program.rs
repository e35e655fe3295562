//! Compiler of a filter to a program of a stack machine whose values are sets of slots.
//!
//! Parts that are always or never true are folded away first. Children are pushed in an order that keeps the stack
//! low, so that a filter nested as deep as clients may send has few sets at a time.

use super::MetadataIndex;
use crate::engine::filter::Filter;

/// Sets on the stack from which on the deepest child of an AND comes first; with fewer sets, the cheapest child does,
/// after which the others may be left out.
const DEEP: usize = 4;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Pushes the slots that pass the condition of this number: those that might (`is_upper`), or those that
    /// certainly do.
    Condition { number: usize, is_upper: bool },
    /// Pushes the set of all slots.
    All,
    /// Pushes the empty set.
    Nothing,
    /// Intersects the two sets on top.
    And,
    /// Unites the two sets on top.
    Or,
    /// Complements the set on top.
    Not,
    /// Continues at `to` if the set on top is so small that the next conditions cost more than looking at the
    /// documents.
    SkipIfFew { cost: u64, to: usize },
}

/// A filter without parts that are always or never true, unless the whole filter is.
#[derive(Debug, PartialEq)]
enum Node {
    All,
    Nothing,
    Condition(usize),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// A node whose children are in the order in which they are pushed.
struct Planned {
    node: Ordered,
    /// Most sets on the stack at a time for it.
    depth: usize,
    /// Most that its evaluation may cost, in units of one value lookup.
    cost: u64,
}

enum Ordered {
    All,
    Nothing,
    Condition(usize),
    Not(Box<Planned>),
    And(Vec<Planned>),
    Or(Vec<Planned>),
}

/// The program that pushes the slots that might pass `filter`.
pub(super) fn compile(index: &MetadataIndex, filter: &Filter) -> Vec<Op> {
    let mut conditions = Vec::new();
    collect(filter, &mut conditions);
    let planned = plan(index, &conditions, fold(filter, &mut 0));
    let mut program = Vec::new();
    push(&planned, true, &mut program);
    program
}

/// The conditions of a filter, in the order in which they are numbered.
pub(super) fn collect<'a>(filter: &'a Filter, conditions: &mut Vec<&'a Filter>) {
    match filter {
        Filter::Exact(..) | Filter::In(..) | Filter::Range(..) => conditions.push(filter),
        Filter::And(filters) | Filter::Or(filters) => {
            filters.iter().for_each(|filter| collect(filter, conditions));
        }
        Filter::Not(filter) => collect(filter, conditions),
        Filter::All | Filter::Nothing => {}
    }
}

/// Folds `filter`. `next` is the number of its first condition, and is advanced to the number after its last.
fn fold(filter: &Filter, next: &mut usize) -> Node {
    match filter {
        Filter::Exact(..) | Filter::In(..) | Filter::Range(..) => {
            *next += 1;
            Node::Condition(*next - 1)
        }
        Filter::And(filters) => join(filters.iter().map(|filter| fold(filter, next)), true),
        Filter::Or(filters) => join(filters.iter().map(|filter| fold(filter, next)), false),
        Filter::Not(filter) => match fold(filter, next) {
            Node::All => Node::Nothing,
            Node::Nothing => Node::All,
            Node::Not(node) => *node,
            node => Node::Not(Box::new(node)),
        },
        Filter::All => Node::All,
        Filter::Nothing => Node::Nothing,
    }
}

/// Joins children by AND, or by OR. Children of the same kind are flattened.
fn join(nodes: impl Iterator<Item = Node>, is_and: bool) -> Node {
    let (neutral, decisive) =
        if is_and { (Node::All, Node::Nothing) } else { (Node::Nothing, Node::All) };
    let (mut children, mut is_decided) = (Vec::new(), false);
    for node in nodes {
        match node {
            node if node == decisive => is_decided = true,
            node if node == neutral => {}
            Node::And(nodes) if is_and => children.extend(nodes),
            Node::Or(nodes) if !is_and => children.extend(nodes),
            node => children.push(node),
        }
    }
    match children.len() {
        _ if is_decided => decisive,
        0 => neutral,
        1 => children.remove(0),
        _ if is_and => Node::And(children),
        _ => Node::Or(children),
    }
}

/// Orders the children of all nodes.
fn plan(index: &MetadataIndex, conditions: &[&Filter], node: Node) -> Planned {
    let leaf = |node, cost| Planned { node, depth: 1, cost };
    match node {
        Node::All => leaf(Ordered::All, 1),
        Node::Nothing => leaf(Ordered::Nothing, 1),
        Node::Condition(number) => {
            let cost = match conditions[number] {
                Filter::Range(key, Some(_)) => {
                    index.keys.get(key.as_str()).map_or(0, |key| key.value_count() as u64)
                }
                Filter::In(_, values) => values.len() as u64,
                _ => 1,
            };
            leaf(Ordered::Condition(number), cost)
        }
        Node::Not(node) => {
            let planned = plan(index, conditions, *node);
            let Planned { depth, cost, .. } = planned;
            Planned { node: Ordered::Not(Box::new(planned)), depth, cost }
        }
        Node::And(nodes) => plan_join(index, conditions, nodes, true),
        Node::Or(nodes) => plan_join(index, conditions, nodes, false),
    }
}

/// The children of an AND come in the order of their cost, the deepest one excepted.
fn plan_join(
    index: &MetadataIndex,
    conditions: &[&Filter],
    nodes: Vec<Node>,
    is_and: bool,
) -> Planned {
    let mut children: Vec<Planned> =
        nodes.into_iter().map(|node| plan(index, conditions, node)).collect();
    if is_and {
        children.sort_by_key(|child| child.cost);
    }
    let deepest = (0..children.len()).rev().max_by_key(|&place| children[place].depth);
    if let Some(deepest) = deepest.filter(|&place| !is_and || children[place].depth >= DEEP) {
        children[..=deepest].rotate_right(1);
    }
    let depths = children.iter().enumerate();
    let depth = depths.map(|(place, child)| child.depth + usize::from(place > 0)).max();
    let cost = children.iter().map(|child| child.cost).sum();
    let node = if is_and { Ordered::And(children) } else { Ordered::Or(children) };
    Planned { node, depth: depth.unwrap_or(1), cost }
}

/// Appends the instructions that push the slots that pass.
fn push(planned: &Planned, is_upper: bool, program: &mut Vec<Op>) {
    let (children, op) = match &planned.node {
        Ordered::All => return program.push(Op::All),
        Ordered::Nothing => return program.push(Op::Nothing),
        &Ordered::Condition(number) => return program.push(Op::Condition { number, is_upper }),
        Ordered::Not(planned) => {
            push(planned, !is_upper, program);
            return program.push(Op::Not);
        }
        Ordered::And(children) => (children, Op::And),
        Ordered::Or(children) => (children, Op::Or),
    };
    let mut skips = Vec::new();
    for (place, child) in children.iter().enumerate() {
        if place > 0 && op == Op::And && is_upper {
            skips.push(program.len());
            program.push(Op::SkipIfFew { cost: child.cost, to: 0 });
        }
        push(child, is_upper, program);
        if place > 0 {
            program.push(op);
        }
    }
    let end = program.len();
    for skip in skips {
        if let Op::SkipIfFew { to, .. } = &mut program[skip] {
            *to = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::stripe::Stripe;

    fn one(number: usize) -> Filter {
        Filter::Exact("key".into(), number.to_string())
    }

    /// The program of a filter, and the most sets that it has on the stack.
    fn program(filter: &Filter) -> (Vec<Op>, usize) {
        let program = compile(&MetadataIndex::new(Stripe::WHOLE), filter);
        let (mut height, mut most) = (0_usize, 0);
        for op in &program {
            match op {
                Op::Condition { .. } | Op::All | Op::Nothing => height += 1,
                Op::And | Op::Or => height -= 1,
                Op::Not | Op::SkipIfFew { .. } => {}
            }
            most = most.max(height);
        }
        assert_eq!(height, 1, "{filter:?}");
        (program, most)
    }

    #[test]
    fn conditions_that_are_always_or_never_true_are_folded_away() {
        let all = || Filter::And(Vec::new());
        let mut deep = one(0);
        for _ in 0..31 {
            deep = Filter::Or(vec![all(), deep]);
        }
        assert_eq!(program(&deep).0, [Op::All]);
        let not = |filter| Filter::Not(Box::new(filter));
        assert_eq!(program(&not(deep)).0, [Op::Nothing]);
        let kept = Filter::And(vec![all(), not(Filter::Or(Vec::new())), one(0)]);
        assert_eq!(program(&kept).0, [Op::Condition { number: 0, is_upper: true }]);
        // Numbers are those of the conditions of the whole filter.
        let second = Filter::Or(vec![Filter::And(vec![one(0), Filter::Nothing]), one(1)]);
        assert_eq!(program(&second).0, [Op::Condition { number: 1, is_upper: true }]);
        assert_eq!(program(&not(not(not(one(0))))).0.len(), 2);
    }

    #[test]
    fn deep_filters_have_few_sets_at_a_time() {
        let mut chains = [one(0), one(0)];
        for level in 1..32 {
            let [left, right] = chains;
            let join = if level % 2 == 0 { Filter::And } else { Filter::Or };
            chains = [join(vec![left, one(level)]), join(vec![one(level), right])];
        }
        for chain in &chains {
            let most = program(chain).1;
            assert!(most <= DEEP, "{most} sets");
        }
        // A balanced tree: as many as necessary.
        let balanced = |levels: u32| {
            let mut nodes: Vec<Filter> = (0..1 << levels).map(one).collect();
            for level in 0..levels {
                let join = if level % 2 == 0 { Filter::And } else { Filter::Or };
                nodes = nodes.chunks(2).map(|pair| join(pair.to_vec())).collect();
            }
            nodes.remove(0)
        };
        assert_eq!(program(&balanced(10)).1, 11);
    }
}
