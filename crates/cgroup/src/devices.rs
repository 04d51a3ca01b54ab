//! Which devices a group may open: rules, and their form for either version of control groups.

/// What a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Char,
    Block,
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// mknod(2) only: an inode that cannot be opened does no harm, and unpacking an archive may need it.
    Mknod,
    /// Open for reading and writing, and mknod(2).
    Full,
}

/// One allowance; a number of `None` means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// What a group's processes may do with devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DevicePolicy {
    /// Leave what the group has (a new one inherits from its parent).
    #[default]
    Unchanged,
    AllowAll,
    /// Nothing but the usual harmless devices (null, zero, full, random, urandom, tty, terminals, tun) and these.
    Default(Vec<DeviceRule>),
}

const fn full(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule { kind: DeviceKind::Char, major: Some(major), minor, access: Access::Full }
}

const fn mknod_any(kind: DeviceKind) -> DeviceRule {
    DeviceRule { kind, major: None, minor: None, access: Access::Mknod }
}

/// The set that runc gives every container.
const DEFAULT_RULES: [DeviceRule; 11] = [
    mknod_any(DeviceKind::Char),
    mknod_any(DeviceKind::Block),
    full(1, Some(3)),
    full(1, Some(5)),
    full(1, Some(7)),
    full(1, Some(8)),
    full(1, Some(9)),
    full(5, Some(0)),
    full(5, Some(2)),
    full(136, None),
    full(10, Some(200)),
];

pub(crate) fn default_rules(extra: &[DeviceRule]) -> Vec<DeviceRule> {
    DEFAULT_RULES.iter().chain(extra).copied().collect()
}

/// A line for `devices.allow` of v1.
pub(crate) fn v1_line(rule: &DeviceRule) -> String {
    let kind = match rule.kind {
        DeviceKind::Char => 'c',
        DeviceKind::Block => 'b',
    };
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    let access = match rule.access {
        Access::Mknod => "m",
        Access::Full => "rwm",
    };
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

/// One instruction of the kernel's BPF machine, as `struct bpf_insn` lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination register in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNEQUAL_IMMEDIATE: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn op(code: u8, dst: u8, src: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset: 0, immediate }
}

const fn load(dst: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: dst | CONTEXT << 4, offset, immediate: 0 }
}

/// A program of type `BPF_PROG_TYPE_CGROUP_DEVICE` that answers 1 for what a rule allows and 0 for the rest.
///
/// Its context is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where the low half of
/// `access_type` is the kind (1 block, 2 char) and the high half the access asked for (1 mknod, 2 read, 4 write).
pub(crate) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        load(KIND, 0),
        op(AND_IMMEDIATE, KIND, 0, 0xffff),
        load(ACCESS, 0),
        op(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules {
        append_rule(&mut code, rule);
    }
    code.extend([op(MOVE_IMMEDIATE, RESULT, 0, 0), op(EXIT, 0, 0, 0)]);
    code
}

fn append_rule(code: &mut Vec<Instruction>, rule: &DeviceRule) {
    let kind = match rule.kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
    };
    let access = match rule.access {
        Access::Mknod => 1,
        Access::Full => 7,
    };
    let mut block = vec![
        op(JUMP_UNEQUAL_IMMEDIATE, KIND, 0, kind),
        // Register 1 held the context, which is read by now.
        op(MOVE_REGISTER, CONTEXT, ACCESS, 0),
        op(AND_IMMEDIATE, CONTEXT, 0, access),
        op(JUMP_UNEQUAL_REGISTER, CONTEXT, ACCESS, 0),
    ];
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        // Device numbers have 12 and 20 bits, so they are never negative here.
        block.extend(number.map(|n| op(JUMP_UNEQUAL_IMMEDIATE, register, 0, n as i32)));
    }
    block.extend([op(MOVE_IMMEDIATE, RESULT, 0, 1), op(EXIT, 0, 0, 0)]);
    let end = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_UNEQUAL_IMMEDIATE | JUMP_UNEQUAL_REGISTER) {
            instruction.offset = (end - at - 1) as i16;
        }
    }
    code.append(&mut block);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(code: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let i = code[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            let jump = match i.code {
                LOAD_WORD => {
                    registers[dst] = u64::from(context[i.offset as usize / 4]);
                    false
                }
                MOVE_IMMEDIATE => {
                    registers[dst] = i.immediate as u64;
                    false
                }
                MOVE_REGISTER => {
                    registers[dst] = registers[src];
                    false
                }
                AND_IMMEDIATE => {
                    registers[dst] &= i.immediate as u64;
                    false
                }
                SHIFT_RIGHT => {
                    registers[dst] >>= i.immediate;
                    false
                }
                JUMP_UNEQUAL_IMMEDIATE => registers[dst] != i.immediate as u64,
                JUMP_UNEQUAL_REGISTER => registers[dst] != registers[src],
                EXIT => return registers[0],
                other => panic!("unknown instruction {other:#x}"),
            };
            if jump {
                at += i.offset as usize;
            }
        }
    }

    #[test]
    fn s_d15_the_program_allows_the_default_set_and_nothing_else() {
        let sda = DeviceRule { kind: DeviceKind::Block, major: Some(8), minor: Some(1), access: Access::Full };
        let plain = program(&default_rules(&[]));
        let extended = program(&default_rules(&[sda]));
        let (block, char) = (1, 2);
        let (mknod, read, write) = (1, 2, 4);
        for (kind, access, major, minor, expected, expected_extended) in [
            (char, read | write, 1, 3, 1, 1),
            (char, read, 1, 9, 1, 1),
            (char, read | write, 136, 77, 1, 1),
            (char, read, 1, 1, 0, 0),
            (char, mknod, 1, 1, 1, 1),
            (char, mknod | read, 1, 1, 0, 0),
            (block, mknod, 8, 1, 1, 1),
            (block, read, 8, 1, 0, 1),
            (block, read, 8, 2, 0, 0),
            (block, read, 1, 3, 0, 0),
            (char, read, 5, 1, 0, 0),
        ] {
            let context = [kind | access << 16, major, minor];
            assert_eq!(run(&plain, context), expected, "{context:?}");
            assert_eq!(run(&extended, context), expected_extended, "{context:?}");
        }
    }

    #[test]
    fn v1_lines_are_the_kernels_form() {
        assert_eq!(v1_line(&mknod_any(DeviceKind::Block)), "b *:* m");
        assert_eq!(v1_line(&full(136, None)), "c 136:* rwm");
    }
}
