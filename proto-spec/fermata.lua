-- Wireshark dissector of the Fermata protocol, version 1.
--
--     tshark -X lua_script:proto-spec/fermata.lua -o tls.keylog_file:KEYS -r session.pcapng -Y fermata
--
-- or copy it together with fermata.proto into Wireshark's directory of personal Lua plugins (Help >
-- About > Folders). No other set-up: it reads fermata.proto, which must be beside it, and names every
-- message and field from there.
--
-- Filters: fermata.length, .kind, .flags.more, .flags.mandatory, .correlation; fermata.message (a name
-- of the schema); fermata.rule (the rule that a frame breaks); and each field of the schema as
-- fermata.MESSAGE.FIELD in lower case with underscores: fermata.host_report.host,
-- fermata.guest_report.id, fermata.fleet_event.rollout_started.rollout.
--
-- It takes what TLS carries under ALPN fermata/1, and TCP port 7450 with or without TLS (Fermata itself
-- never speaks without: that is for made-up captures).
--
-- Written from README.md beside it: "section" means a section there.

local fermata = Proto("fermata", "Fermata")

local PORT = 7450
local HEADER = 12                       -- what `length` counts beside the body
local LIMIT_BEFORE_HELLO = 4096
local LIMIT = 1048576
local MORE, MANDATORY = 1, 2

-- Section 6: kinds never change their number.
local KINDS = {
    [1] = "Hello", [2] = "HelloAccepted", [3] = "Close", [4] = "Ping", [5] = "Pong",
    [16] = "HostReport", [17] = "HostReportCommitted", [18] = "Directive",
    [19] = "DirectiveAnswer", [20] = "StepProgress", [21] = "StepReport",
    [22] = "StepReportCommitted", [32] = "Command", [33] = "CommandAccepted", [34] = "Refused",
    [35] = "Query", [36] = "QueryResult", [40] = "FollowEvents", [41] = "EventBatch",
    [42] = "AcknowledgeEvents", [43] = "ClaimDeliveries", [44] = "DeliveryLease",
    [45] = "ReportDelivered", [46] = "GiveUpDeliveries",
}
-- Longest messages, by kind; all others have SMALL_MESSAGE_LIMIT.
local SMALL_MESSAGE_LIMIT = 1048576
local MESSAGE_LIMITS = {
    [16] = 33554432, [18] = 4194304, [21] = 4194304, [32] = 4194304, [35] = 4194304,
    [36] = 67108864, [41] = 67108864,
}
local HELLO_ACCEPTED, CONTROL = 2, { [3] = true, [4] = true, [5] = true }

-- What is wrong, by the words of vectors/frames.json and one for bodies.
local RULES = {
    tooShort = "length is below 12",
    tooLong = "length is above the limit (4,096 before HelloAccepted, then 1,048,576)",
    kindZero = "kind is 0",
    unknownFlags = "a flag is set that is neither MORE nor MANDATORY",
    emptyChunk = "MORE is set on a frame without a body",
    interleaved = "another message between the chunks of one",
    messageTooLong = "the chunks together are longer than this kind may be",
    chunkBeforeHello = "a chunk before the session is open",
    unknownKind = "MANDATORY is set on a kind that version 1 does not have",
    unreadableBody = "the body is not the message that the kind says",
}

-- ---- The schema ------------------------------------------------------------------------------------

-- The directory of this file, with the separator at its end.
local function own_directory()
    local source = debug.getinfo(1, "S").source:gsub("^@", "")
    return source:match("^(.*[/\\])") or ""
end

local function read_file(path)
    local file = io.open(path, "r")
    if not file then
        error("fermata.lua: cannot read " .. path .. ": copy fermata.proto beside fermata.lua", 0)
    end
    local text = file:read("*a")
    file:close()
    return text
end

-- Reads the part of the schema language that fermata.proto uses. Gives messages
-- {NAME = {name =, fields = {[number] = field}, order = {field…}}} and enums {NAME = {[number] = text}};
-- a nested message is named OUTER.INNER. An error if there is something that it does not know.
local function parse_schema(text)
    text = text:gsub("//[^\n]*", ""):gsub("/%*.-%*/", "")
    local tokens, at = {}, 1
    local position = 1
    while true do
        position = text:find("%S", position)
        if not position then break end
        local from, to = text:find("^[%w_%.]+", position)
        if not from then from, to = text:find('^"[^"]*"', position) end
        if not from then from, to = position, position end
        tokens[#tokens + 1] = text:sub(from, to)
        position = to + 1
    end

    local messages, enums = {}, {}
    local function take(expected)
        local token = tokens[at]
        at = at + 1
        if expected and token ~= expected then
            error("fermata.lua: fermata.proto: '" .. tostring(token) .. "' instead of '" .. expected
                .. "'", 0)
        end
        return token
    end
    local function skip_statement()
        while take() ~= ";" do end
    end
    local function enum()
        local name, values = take(), {}
        take("{")
        while tokens[at] ~= "}" do
            local value = take()
            take("=")
            values[tonumber(take())] = value
            take(";")
        end
        take("}")
        enums[name] = values
    end
    local message
    local function body(found, path)
        while tokens[at] ~= "}" do
            local word = take()
            if word == "message" then
                message(path .. ".")
            elseif word == "enum" then
                enum()
            elseif word == "oneof" then
                take()
                take("{")
                body(found, path)
                take("}")
            elseif word == "reserved" or word == "option" then
                skip_statement()
            else
                local field = { repeated = word == "repeated" }
                if word == "repeated" or word == "optional" then word = take() end
                field.type, field.name = word, take()
                take("=")
                field.number = tonumber(take())
                if tokens[at] == "[" then
                    while take() ~= "]" do end
                end
                take(";")
                found.fields[field.number] = field
                found.order[#found.order + 1] = field
            end
        end
    end
    message = function(prefix)
        local name = prefix .. take()
        local found = { name = name, fields = {}, order = {} }
        messages[name] = found
        take("{")
        body(found, name)
        take("}")
    end
    while at <= #tokens do
        local word = take()
        if word == "message" then
            message("")
        elseif word == "enum" then
            enum()
        else                            -- syntax, package, option, import
            skip_statement()
        end
    end
    return messages, enums
end

local messages, enums = parse_schema(read_file(own_directory() .. "fermata.proto"))

-- `HostReport` as `host_report`.
local function snake(name)
    return (name:gsub("(%l)(%u)", "%1_%2"):lower())
end

-- The values of an enum without what they begin with in common, such as `GUEST_STATE_`.
local function short_values(values)
    local prefix
    for _, text in pairs(values) do
        prefix = prefix or text
        while text:sub(1, #prefix) ~= prefix do prefix = prefix:sub(1, -2) end
    end
    local found = {}
    for number, text in pairs(values) do found[number] = text:sub(#prefix + 1) end
    return found
end

-- Types of the schema: how they are on the wire (0 varint, 1 eight bytes, 2 with length, 5 four bytes),
-- and as a field of Wireshark.
local SCALARS = {
    bool = { wire = 0, field = "bool" }, uint32 = { wire = 0, field = "uint32" },
    uint64 = { wire = 0, field = "uint64" }, int32 = { wire = 0, field = "int32" },
    int64 = { wire = 0, field = "int64" }, sint32 = { wire = 0, field = "int32", zigzag = true },
    sint64 = { wire = 0, field = "int64", zigzag = true },
    fixed32 = { wire = 5, field = "uint32" }, fixed64 = { wire = 1, field = "uint64" },
    string = { wire = 2, field = "string" }, bytes = { wire = 2, field = "bytes" },
}

local pf = {
    length = ProtoField.uint32("fermata.length", "Length", base.DEC, nil, nil,
        "How many bytes follow it"),
    kind = ProtoField.uint16("fermata.kind", "Kind", base.DEC, KINDS),
    flags = ProtoField.uint16("fermata.flags", "Flags", base.HEX),
    more = ProtoField.bool("fermata.flags.more", "MORE", 16, nil, MORE, "Another chunk follows"),
    mandatory = ProtoField.bool("fermata.flags.mandatory", "MANDATORY", 16, nil, MANDATORY,
        "Who does not know the kind closes"),
    correlation = ProtoField.uint64("fermata.correlation", "Correlation", base.DEC),
    body = ProtoField.bytes("fermata.body", "Body"),
    message = ProtoField.string("fermata.message", "Message"),
    rule = ProtoField.string("fermata.rule", "Broken rule"),
    chunks = ProtoField.uint32("fermata.chunks", "Chunks", base.DEC, nil, nil,
        "How many frames the message came in"),
    first_chunk = ProtoField.framenum("fermata.first_chunk", "First chunk in", base.NONE),
    unknown = ProtoField.bytes("fermata.unknown_field", "Unknown field"),
}
local pe = {
    malformed = ProtoExpert.new("fermata.malformed", "Fermata: a rule is broken", expert.group.MALFORMED,
        expert.severity.ERROR),
    close = ProtoExpert.new("fermata.closed", "Fermata: closed for a reason", expert.group.RESPONSE_CODE,
        expert.severity.WARN),
    unknown = ProtoExpert.new("fermata.unknown", "Fermata: not in this schema, ignored",
        expert.group.UNDECODED, expert.severity.NOTE),
}

local all_fields = {}
for _, each in pairs(pf) do all_fields[#all_fields + 1] = each end
-- What a field's type means where it is used: messages nested in the one that names them come first.
for name, message in pairs(messages) do
    message.pieces = {}
    for piece in name:gmatch("[^.]+") do message.pieces[#message.pieces + 1] = snake(piece) end
    local path = "fermata." .. table.concat(message.pieces, ".")
    for _, field in ipairs(message.order) do
        local abbreviation = path .. "." .. field.name
        field.scalar = SCALARS[field.type]
        field.message = messages[name .. "." .. field.type] or messages[field.type]
        field.enum = enums[field.type]
        if field.scalar then
            field.wire = field.scalar.wire
            local kind = field.scalar.field
            if kind == "bytes" or kind == "string" or kind == "bool" then
                field.pf = ProtoField[kind](abbreviation, field.name)
            else
                local shown = field.type == "fixed32" and base.HEX or base.DEC
                field.pf = ProtoField[kind](abbreviation, field.name, shown)
            end
        elseif field.enum then
            field.wire = 0
            field.short = short_values(field.enum)
            field.pf = ProtoField.uint32(abbreviation, field.name, base.DEC, field.short)
        elseif field.message then
            field.wire = 2
            field.pf = ProtoField.none(abbreviation, field.name)
        else
            error("fermata.lua: fermata.proto: " .. name .. "." .. field.name .. " is of unknown type "
                .. field.type, 0)
        end
        all_fields[#all_fields + 1] = field.pf
    end
end
for number, name in pairs(KINDS) do
    if not messages[name] then
        error("fermata.lua: fermata.proto has no message " .. name .. " (kind " .. number .. ")", 0)
    end
end
fermata.fields = all_fields
fermata.experts = { pe.malformed, pe.close, pe.unknown }

-- ---- Bodies ----------------------------------------------------------------------------------------

local UNREADABLE = {}                   -- thrown; anything else that is thrown is our own mistake

-- A varint at `offset`, before `last`: its value (UInt64) and the offset behind it.
local function varint(tvb, offset, last)
    local value, shift = UInt64(0), 0
    while offset < last and shift < 70 do
        local byte = tvb(offset, 1):uint()
        value = value:bor(UInt64(byte % 128):lshift(shift))
        offset, shift = offset + 1, shift + 7
        if byte < 128 then return value, offset end
    end
    error(UNREADABLE)
end

local function is_utf8(text)
    local at, size = 1, #text
    while at <= size do
        local a = text:byte(at)
        local count = a < 0x80 and 0 or a < 0xC2 and -1 or a < 0xE0 and 1 or a < 0xF0 and 2
            or a < 0xF5 and 3 or -1
        if count < 0 or at + count > size then return false end
        for index = 1, count do
            local b = text:byte(at + index)
            local low, high = 0x80, 0xBF
            if index == 1 then          -- no overlong forms, no surrogates, none above U+10FFFF
                if a == 0xE0 then low = 0xA0 elseif a == 0xF0 then low = 0x90
                elseif a == 0xED then high = 0x9F elseif a == 0xF4 then high = 0x8F end
            end
            if b < low or b > high then return false end
        end
        at = at + count + 1
    end
    return true
end

-- For the info column: what a peer sends is shown there without signs that move the cursor.
local function plain(text)
    if #text > 64 then text = text:sub(1, 64) .. "…" end
    return (text:gsub("%c", "."))
end

-- Shows the message in tvb(offset … last) below `tree`; gives its values by the fields' names for the
-- summary: scalars as text, messages as such tables, repeated ones as {count = N, …}.
local function show_message(tvb, offset, last, message, tree, depth)
    if depth > 50 then error(UNREADABLE) end
    local values = {}
    local function note(field, value)
        if field.repeated then
            values[field.name] = values[field.name] or { count = 0 }
            values[field.name].count = values[field.name].count + 1
        else
            values[field.name] = value
        end
    end
    -- A varint's value as what the schema says.
    local function show_number(field, from, to, value)
        local range = tvb(from, to - from)
        local type = field.scalar and field.scalar.field
        if field.enum then
            local number = value:band(UInt64.max():rshift(32)):tonumber()
            tree:add(field.pf, range, number)
            note(field, field.short[number] or tostring(number))
        elseif type == "bool" then
            local is = value ~= UInt64(0)
            tree:add(field.pf, range, is)
            note(field, is and "yes" or "no")
        elseif type == "uint64" then
            tree:add(field.pf, range, value)
            note(field, tostring(value))
        elseif type == "uint32" then
            tree:add(field.pf, range, value:band(UInt64.max():rshift(32)):tonumber())
            note(field, tostring(value))
        else
            local signed
            if field.scalar.zigzag then
                local half = Int64(value:rshift(1):lower(), value:rshift(1):higher())
                signed = value:band(1) == UInt64(0) and half or -half - 1
            else
                signed = Int64(value:lower(), value:higher())
            end
            if type == "int32" then signed = signed:tonumber() end
            tree:add(field.pf, range, signed)
            note(field, tostring(signed))
        end
    end
    while offset < last do
        local start = offset
        local key
        key, offset = varint(tvb, offset, last)
        key = key:tonumber()
        local number, wire = math.floor(key / 8), key % 8
        if number == 0 then error(UNREADABLE) end
        local value, from = nil, offset
        if wire == 0 then
            value, offset = varint(tvb, offset, last)
        elseif wire == 1 then
            offset = offset + 8
        elseif wire == 5 then
            offset = offset + 4
        elseif wire == 2 then
            local size
            size, offset = varint(tvb, offset, last)
            from = offset
            if size > UInt64(last) then error(UNREADABLE) end
            offset = offset + size:tonumber()
        else                            -- groups are no part of the schema language we use
            error(UNREADABLE)
        end
        if offset > last then error(UNREADABLE) end
        local field = message.fields[number]
        local packable = field and field.repeated and field.wire ~= 2
        if field and wire == 2 and packable then
            local at = from
            while at < offset do
                local element, behind
                if field.wire == 0 then
                    element, behind = varint(tvb, at, offset)
                    show_number(field, at, behind, element)
                else
                    error(UNREADABLE)   -- no such field in version 1
                end
                at = behind
            end
        elseif not field or wire ~= field.wire then
            -- Section 8: fields may be added; one of another type counts as unknown, too.
            tree:add(pf.unknown, tvb(start, offset - start))
                :append_text(" (number " .. number .. ")")
        elseif field.message then
            local range = offset > from and tvb(from, offset - from) or tvb(start, offset - start)
            local subtree = tree:add(field.pf, range)
            local inner = show_message(tvb, from, offset, field.message, subtree, depth + 1)
            local name = inner.id or inner.name
            if type(name) == "string" then subtree:append_text(": " .. plain(name)) end
            note(field, inner)
        elseif wire == 1 then
            local number64 = tvb(from, 8):le_uint64()
            tree:add_le(field.pf, tvb(from, 8))
            note(field, tostring(number64))
        elseif wire == 5 then
            tree:add_le(field.pf, tvb(from, 4))
            note(field, tostring(tvb(from, 4):le_uint()))
        elseif wire == 0 then
            show_number(field, from, offset, value)
        else
            local text = offset > from and tvb:raw(from, offset - from) or ""
            -- An empty text has no bytes of its own to point at.
            local range = offset > from and tvb(from, offset - from) or tvb(start, offset - start)
            if field.type == "string" then
                if not is_utf8(text) then error(UNREADABLE) end
                tree:add(field.pf, range, text)
                note(field, plain(text))
            else
                if offset > from then tree:add(field.pf, range) end
                note(field, nil)
            end
        end
    end
    return values
end

-- Long, and the same in every session: not for one line.
local NOT_IN_SUMMARY = {
    magic = true, software = true, software_version = true, agent_version = true, boot_id = true,
    keepalive_milliseconds = true, silence_milliseconds = true,
}

-- `host=a guests=3`: the first values of a message, in the schema's order.
local function summary(message, values)
    local parts = {}
    for _, field in ipairs(message.order) do
        local value = values[field.name]
        if #parts < 8 and value ~= nil and not NOT_IN_SUMMARY[field.name] then
            if type(value) ~= "table" then
                parts[#parts + 1] = field.name .. "=" .. value
            elseif value.count then
                parts[#parts + 1] = field.name .. "=" .. value.count
            elseif field.type == "StepRef" then
                parts[#parts + 1] = field.name .. "=" .. (value.rollout or "0") .. "/"
                    .. (value.number or "0")
            elseif #field.message.order == 1 and field.message.order[1].repeated then
                -- A list in a message of its own, such as QueryResult.guests.
                local list = value[field.message.order[1].name]
                parts[#parts + 1] = field.name .. "=" .. (list and list.count or 0)
            else
                parts[#parts + 1] = field.name
            end
        end
    end
    return table.concat(parts, " ")
end

-- ---- Frames ----------------------------------------------------------------------------------------

local stream_of, source_port, destination_port =
    Field.new("tcp.stream"), Field.new("tcp.srcport"), Field.new("tcp.dstport")

-- What earlier packets leave behind. Wireshark may show packets again in any order, so what was found
-- for a frame when it came first is kept under its place: packet, direction, and which frame there.
local directions        -- direction -> {partial = chunks so far, broken = true}
local streams           -- stream -> {saw_hello =, is_open =, is_tls =}
local found             -- place -> {rule =, body =, chunks =, first =}

function fermata.init()
    directions, streams, found = {}, {}, {}
end

local function stream_state(stream)
    streams[stream] = streams[stream] or {}
    return streams[stream]
end

-- What the rules of section 3 say of one frame, in the order of the stream. Gives
-- {rule =} if it breaks one, {body =, chunks =, first =} if it is the last of several chunks,
-- {is_chunk = true} if more follow, {} for a message of its own.
local function judge(direction, stream, packet, frame)
    local state = directions[direction]
    local is_more = frame.flags % 2 == MORE
    if frame.kind == 0 then return { rule = "kindZero" } end
    if frame.flags > 3 then return { rule = "unknownFlags" } end
    if not KINDS[frame.kind] then
        -- Ignored, a chunk or not, wherever it is.
        return frame.flags >= MANDATORY and { rule = "unknownKind" } or {}
    end
    if is_more and not stream.is_open and stream.saw_hello then
        return { rule = "chunkBeforeHello" }
    end
    if is_more and #frame.body == 0 then return { rule = "emptyChunk" } end
    local partial = state.partial
    if not partial then
        if not is_more then return {} end
        state.partial = {
            kind = frame.kind, correlation = frame.correlation, pieces = { frame.body },
            size = #frame.body, first = packet }
        return { is_chunk = true }
    end
    if partial.kind ~= frame.kind or partial.correlation ~= frame.correlation then
        if CONTROL[frame.kind] and not is_more then return {} end
        return { rule = "interleaved" }
    end
    partial.size = partial.size + #frame.body
    if partial.size > (MESSAGE_LIMITS[frame.kind] or SMALL_MESSAGE_LIMIT) then
        return { rule = "messageTooLong" }
    end
    partial.pieces[#partial.pieces + 1] = frame.body
    if is_more then return { is_chunk = true } end
    state.partial = nil
    return { body = table.concat(partial.pieces), chunks = #partial.pieces, first = partial.first }
end

local function hexadecimal(text)
    return (text:gsub(".", function(sign) return string.format("%02x", sign:byte()) end))
end

local function add_rule(tree, range, rule)
    tree:add(pf.rule, range, rule):append_text(": " .. RULES[rule]):set_generated()
    tree:add_proto_expert_info(pe.malformed, "Malformed: " .. RULES[rule])
    return "[Malformed: " .. rule .. "]"
end

-- Shows one whole frame; its words for the info column.
local function show_frame(tvb, offset, size, tree, verdict, frame)
    local subtree = tree:add(fermata, tvb(offset, size))
    local name = KINDS[frame.kind]
    subtree:set_text("Fermata " .. (name or ("kind " .. frame.kind)))
    subtree:add(pf.length, tvb(offset, 4))
    subtree:add(pf.kind, tvb(offset + 4, 2))
    local flags = subtree:add(pf.flags, tvb(offset + 6, 2))
    flags:add(pf.more, tvb(offset + 6, 2))
    flags:add(pf.mandatory, tvb(offset + 6, 2))
    subtree:add(pf.correlation, tvb(offset + 8, 8))
    if size > 16 then subtree:add(pf.body, tvb(offset + 16, size - 16)) end
    local info = name or ("kind " .. frame.kind)
    if verdict.rule then return info .. " " .. add_rule(subtree, tvb(offset, size), verdict.rule) end
    if verdict.is_chunk then
        subtree:append_text(", a chunk")
        return info .. " (chunk)"
    end
    if not name then
        subtree:add_proto_expert_info(pe.unknown, "Kind " .. frame.kind .. " is not in version 1")
        return info .. " (unknown, ignored)"
    end
    local body, from, last = tvb, offset + 16, offset + size
    if verdict.body then
        subtree:add(pf.chunks, verdict.chunks):set_generated()
        subtree:add(pf.first_chunk, verdict.first):set_generated()
        from, last = 0, #verdict.body
        -- All but the last chunk had a body, so it is not empty.
        body = ByteArray.new(hexadecimal(verdict.body)):tvb("Message of " .. verdict.chunks .. " chunks")
        info = info .. " (" .. verdict.chunks .. " chunks)"
    end
    subtree:add(pf.message, tvb(offset + 4, 2), name):set_generated()
    local is_readable, values = pcall(
        show_message, body, from, last, messages[name], subtree, 0)
    if not is_readable then
        if values ~= UNREADABLE then error(values, 0) end
        return info .. " " .. add_rule(subtree, tvb(offset, size), "unreadableBody")
    end
    local text = summary(messages[name], values)
    if text ~= "" then
        info = info .. " " .. text
        subtree:append_text(", " .. text)
    end
    if name == "Close" and values.code ~= "NORMAL" then
        subtree:add_proto_expert_info(pe.close, "Closed: " .. text)
    end
    return info
end

-- All frames in what TCP or TLS hands over; asks for more where one is not complete.
local function show_frames(tvb, pinfo, tree)
    local number = stream_of() and stream_of().value or 0
    local direction = number .. ":" .. source_port().value .. ":" .. destination_port().value
    directions[direction] = directions[direction] or {}
    local state, stream = directions[direction], stream_state(number)
    pinfo.cols.protocol = "FERMATA"
    local infos = {}
    local offset, size = 0, tvb:len()
    -- Several records of TLS in one packet are several calls, and their frames are counted on.
    local ordinal = tonumber(pinfo.private["fermata_ordinal"] or "0")
    while offset < size do
        ordinal = ordinal + 1
        local place = pinfo.number .. ":" .. direction .. ":" .. ordinal
        local known = pinfo.visited and found[place]
        local left = size - offset
        if (known and known.is_lost) or (not known and state.broken) then
            -- Section 3: nothing after a broken frame can be read.
            found[place] = { is_lost = true }
            tree:add(fermata, tvb(offset)):set_text("Fermata, behind a broken frame")
            infos[#infos + 1] = "behind a broken frame"
            offset = size
        elseif left < 4 then
            ordinal = ordinal - 1
            pinfo.desegment_offset = offset
            pinfo.desegment_len = DESEGMENT_ONE_MORE_SEGMENT
            break
        else
            local length = tvb(offset, 4):uint()
            -- A capture that begins in the middle of a session has no hello: the larger limit then.
            local limit = (stream.saw_hello and not stream.is_open) and LIMIT_BEFORE_HELLO or LIMIT
            local rule = known and known.length_rule
                or not known and (length < HEADER and "tooShort" or length > limit and "tooLong")
            if not known and not rule and offset == 0 and not stream.saw_hello and left >= 6
                and tvb(4, 2):uint() == 1 then
                stream.saw_hello = true
                if length > LIMIT_BEFORE_HELLO then rule = "tooLong" end
            end
            if rule then
                found[place] = { length_rule = rule }
                state.broken = true
                local subtree = tree:add(fermata, tvb(offset))
                subtree:set_text("Fermata, broken frame")
                subtree:add(pf.length, tvb(offset, 4))
                infos[#infos + 1] = add_rule(subtree, tvb(offset, 4), rule)
                offset = size
            elseif left < 4 + length then
                ordinal = ordinal - 1
                pinfo.desegment_offset = offset
                pinfo.desegment_len = 4 + length - left
                break
            else
                local frame = {
                    kind = tvb(offset + 4, 2):uint(), flags = tvb(offset + 6, 2):uint(),
                    correlation = tostring(tvb(offset + 8, 8):uint64()) }
                if not known then
                    frame.body = length > HEADER and tvb:raw(offset + 16, length - HEADER) or ""
                    known = judge(direction, stream, pinfo.number, frame)
                    found[place] = known
                    if known.rule then state.broken = true end
                    if frame.kind == HELLO_ACCEPTED and not known.rule then
                        stream.is_open = true
                    end
                end
                infos[#infos + 1] = show_frame(tvb, offset, 4 + length, tree, known, frame)
                offset = offset + 4 + length
            end
        end
    end
    pinfo.private["fermata_ordinal"] = tostring(ordinal)
    if #infos > 0 then
        local text = table.concat(infos, ", ")
        -- What came before it in the same packet, completed by it or in other records, has said its own.
        if pinfo.private["fermata_has_info"] then
            pinfo.cols.info:append(", " .. text)
        else
            pinfo.private["fermata_has_info"] = "yes"
            pinfo.cols.info:set(text)
        end
    end
    return size
end

function fermata.dissector(tvb, pinfo, tree)
    if tvb:len() == 0 then return 0 end
    return show_frames(tvb, pinfo, tree)
end

-- TCP port 7450 carries TLS; a frame without begins with a 0, or is broken.
local over_tcp = Proto("fermata_tcp", "Fermata on its port")
local tls = Dissector.get("tls")

function over_tcp.dissector(tvb, pinfo, tree)
    if tvb:len() == 0 then return 0 end
    local stream = stream_state(stream_of() and stream_of().value or 0)
    local first = tvb(0, 1):uint()
    if first >= 0x14 and first <= 0x18 and (tvb:len() < 2 or tvb(1, 1):uint() == 3) then
        stream.is_tls = true
    end
    if stream.is_tls then return tls:call(tvb, pinfo, tree) end
    return show_frames(tvb, pinfo, tree)
end

DissectorTable.get("tcp.port"):add(PORT, over_tcp)
DissectorTable.get("tls.port"):add(PORT, fermata)
DissectorTable.get("tls.alpn"):add("fermata/1", fermata)
