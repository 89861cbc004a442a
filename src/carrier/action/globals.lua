-- Small functions that Lsyncd 2's scripts expect beside the library's.

local sub, find = string.sub, string.find
local ipairs, pairs, tostring, type = ipairs, pairs, tostring, type

function string.starts(text, start)
	return sub(text, 1, #start) == start
end

function string.ends(text, ending)
	return ending == '' or sub(text, -#ending) == ending
end

function table.contains(list, wanted)
	for _, value in pairs(list) do
		if value == wanted then return true end
	end
	return false
end

-- A value as text.
function dump(value)
	if type(value) ~= 'table' then return tostring(value) end
	local text = '{ '
	for key, inner in pairs(value) do
		if type(key) ~= 'number' then key = '"' .. tostring(key) .. '"' end
		text = text .. '[' .. key .. '] = ' .. dump(inner) .. ','
	end
	return text .. '} '
end

-- Words as a shell would tell them apart: blanks between, quotes around, a backslash before.
function lsyncd.splitQuotedString(text)
	local words, word, quote, at = {}, nil, nil, 1
	while at <= #text do
		local c = sub(text, at, at)
		if c == '\\' and quote ~= "'" and at < #text then
			at = at + 1
			word = (word or '') .. sub(text, at, at)
		elseif quote then
			if c == quote then quote = nil else word = word .. c end
		elseif c == '"' or c == "'" then
			quote, word = c, word or ''
		elseif find(c, '%s') then
			if word then words[#words + 1] = word end
			word = nil
		else
			word = (word or '') .. c
		end
		at = at + 1
	end
	if word then words[#words + 1] = word end
	return words
end
