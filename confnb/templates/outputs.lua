-- An output in Markdown or LaTeX, such as a figure's caption: pandoc keeps it as it is, here it is read.
function RawBlock(block)
  if block.format == "markdown" or block.format == "latex" then
    return pandoc.read(block.text, "markdown").blocks
  end
end
