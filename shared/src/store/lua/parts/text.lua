-- text: numbers as whole decimals (tostring keeps 14 digits), lists as lines.
local function whole(number)
  return string.format('%.0f', number)
end

local function lines(text)
  local list = {}
  for line in string.gmatch(text, '[^\n]+') do
    list[#list + 1] = line
  end
  return list
end
