//! What is compared and changed in one step on the Redis side.

/// Keeps each row of ARGV under its key if it is newer than the row there; gives how many it kept.
///
/// Lua's numbers are doubles and not exact beyond 2^53, so the three 64-bit numbers that order rows are compared by halves,
/// the upper ones signed.
///
/// Rows may be followed by a number in ARGV: added to the milliseconds of a row's event time it gives those after which Redis drops
/// the row. Without it a row stays, also where it replaces one that would have gone.
pub(super) const UPSERT: &str = r"
local kept, shift = 0, tonumber(ARGV[#KEYS + 1])
for i, key in ipairs(KEYS) do
    local old = redis.call('GETRANGE', key, 4, 27)
    local newer = #old < 24
    if not newer then
        local a = {struct.unpack('<I4i4I4i4I4i4', ARGV[i], 5)}
        local b = {struct.unpack('<I4i4I4i4I4i4', old)}
        for _, half in ipairs({2, 1, 4, 3, 6, 5}) do
            if a[half] ~= b[half] then
                newer = a[half] > b[half]
                break
            end
        end
    end
    if newer then
        if shift then
            local low, high = struct.unpack('<I4i4', ARGV[i], 5)
            local left = math.floor((high * 4294967296 + low) / 1000) + shift
            redis.call('SET', key, ARGV[i], 'PX', string.format('%.0f', math.max(left, 1)))
        else
            redis.call('SET', key, ARGV[i])
        end
        kept = kept + 1
    end
end
return kept
";

/// Sets the applied version to ARGV[2] if it is ARGV[1], or a version between the two; gives whether it is that far now.
///
/// Versions are decimal digits without leading zeros: they may be wider than Lua's numbers, and are compared as text.
pub(super) const ADVANCE: &str = r"
local function reaches(a, b)
    return #a > #b or (#a == #b and a >= b)
end
local current = redis.call('GET', KEYS[1])
if not current then
    return 0
end
local versions = string.sub(current, 1, 1) ~= 'b' and string.sub(ARGV[1], 1, 1) ~= 'b'
if string.sub(current, 1, 1) ~= 'b' and reaches(current, ARGV[2]) then
    return 1
end
if current == ARGV[1] or (versions and reaches(current, ARGV[1])) then
    redis.call('SET', KEYS[1], ARGV[2])
    return 1
end
return 0
";

/// Marks a building, unless one is marked already; gives the mark that holds.
pub(super) const BEGIN_BUILD: &str = r"
local current = redis.call('GET', KEYS[1])
if current and string.sub(current, 1, 1) == 'b' then
    return current
end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
";
